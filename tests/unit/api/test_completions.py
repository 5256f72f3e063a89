"""How gRPC's core tells the event loop what it has completed."""

import asyncio
import socket
import subprocess
import sys

import pytest

from changefeed_gateway.api.completions import taken_at_once

_STREAMS = 200

_SCRIPT = f"""
import asyncio, contextlib, sys
import grpc
from changefeed_gateway.api.completions import taken_at_once

async def main(cure):
    arrived = written = turns = 0
    everybody, go, all_have_written = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(_, context):
        nonlocal arrived, written
        await context.read()
        arrived += 1
        if arrived == {_STREAMS}:
            everybody.set()
        await go.wait()
        await context.write(b"x")
        written += 1
        if written == {_STREAMS}:
            all_have_written.set()

    selector = asyncio.get_running_loop()._selector
    select = selector.select

    def counted(timeout):
        nonlocal turns
        turns += 1
        return select(timeout)

    handlers = {{"Stream": grpc.stream_stream_rpc_method_handler(handler)}}
    with cure:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{{port}}") as channel:
        calls = [channel.unary_stream("/test.Service/Stream")(b"?") for _ in range({_STREAMS})]
        await everybody.wait()
        selector.select = counted
        go.set()
        await all_have_written.wait()
        await asyncio.sleep(0.5)
        print(turns)
        for call in calls:
            call.cancel()
    await server.stop(0)

asyncio.run(main(taken_at_once() if sys.argv[1] == "cured" else contextlib.nullcontext()))
"""


def turns_for_a_write_of_all(cure: str) -> int:
    done = subprocess.run([sys.executable, "-c", _SCRIPT, cure], capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


async def test_the_loop_does_not_turn_once_for_each_write_that_completes() -> None:
    cured, plain = await asyncio.gather(*(asyncio.to_thread(turns_for_a_write_of_all, c) for c in ("cured", "plain")))
    assert cured * 5 < plain


async def test_the_pair_that_grpc_is_given_gives_all_that_has_come() -> None:
    original = socket.socketpair
    with taken_at_once():
        assert socket.socketpair is original, "nobody else gets such a pair"


@pytest.mark.parametrize("count", [1, 5, 200])
def test_one_read_empties_the_pair(count: int) -> None:
    from changefeed_gateway.api import completions

    reader, writer = completions._pair()
    with reader, writer:
        reader.setblocking(False)
        for _ in range(count):
            writer.send(b"1")
        assert len(reader.recv(1)) == count
        with pytest.raises(BlockingIOError):
            reader.recv(1)
