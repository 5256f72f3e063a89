"""A call that grpc.aio cannot read the method of is dropped, and nothing else is."""

import asyncio
import logging
from collections.abc import AsyncGenerator

import grpc
import pytest

from bench.workers.http2 import LoadConnection, frame, request_headers
from changefeed.v1 import position_pb2, read_changes_pb2, resource_pb2, subscribe_pb2
from changefeed_gateway.core.answer import StreamItem
from tests.api.gateway import Gateway
from tests.api.router_double import OPENED, RouterDouble

ADDRESS = resource_pb2.ResourceAddress(connection="main", collection="documents")
START = position_pb2.StartPosition(beginning=position_pb2.Beginning())
READ = read_changes_pb2.ReadChangesRequest(address=ADDRESS, start_position=START)
SUBSCRIBE = subscribe_pb2.SubscribeRequest(address=ADDRESS, start_position=START)
NO_TEXT = request_headers("/changefeed.v1.ChangeFeedService/ReadChanges").replace(b"changefeed", b"change\xffeed")
END_STREAM, END_HEADERS, HEADERS = 1, 4, 1


class Careless(LoadConnection):
    """Sends headers that are no text."""

    def send_headers(self, headers: bytes) -> None:
        assert self._transport is not None
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._transport.write(frame(HEADERS, END_STREAM | END_HEADERS, stream, headers))


async def connected(gateway: Gateway) -> Careless:
    host, _, port = gateway.address.partition(":")
    loop = asyncio.get_running_loop()
    _, careless = await loop.create_connection(lambda: Careless(lambda _: None), host, int(port))
    return careless


@pytest.mark.req("P7")
async def test_a_call_whose_method_is_no_text_is_dropped_and_all_others_go_on(
    gateway: Gateway, router: RouterDouble
) -> None:
    follow = asyncio.Event()

    async def quiet() -> AsyncGenerator[StreamItem]:
        yield OPENED
        await follow.wait()
        yield OPENED

    router.stream = quiet
    async with asyncio.timeout(60):
        stream = gateway.stub.Subscribe(SUBSCRIBE)
        await stream.read()
        careless = await connected(gateway)
        for calls in (1, 100):
            for _ in range(calls):
                careless.send_headers(NO_TEXT)
            await gateway.stub.ReadChanges(READ)
        while careless.closed_streams < 101:  # noqa: ASYNC110 - a peer of another kind rings no bell
            await asyncio.sleep(0.01)
        careless.close()
        follow.set()
        assert isinstance(await stream.read(), subscribe_pb2.SubscribeResponse)
        stream.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway.call_raw("Unheard", b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_metadata_that_is_no_text_is_not_shown_in_the_log(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    careless = await connected(gateway)
    careless.send_headers(
        request_headers("/changefeed.v1.ChangeFeedService/ReadChanges") + b"\x00\x0dauthorization\x0cBearer \xffhush"
    )
    async with asyncio.timeout(30):
        while not careless.closed_streams:  # noqa: ASYNC110 - a peer of another kind rings no bell
            await asyncio.sleep(0.01)
    careless.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert "hush" not in caplog.text
