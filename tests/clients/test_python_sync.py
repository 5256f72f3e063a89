"""The tail of plain scripts: the engine of the other one, with its promises, in the calling thread alone."""

import asyncio
import threading

import pytest

from changefeed_client import BEGINNING, ChangeFeedRpcError, connect
from changefeed_client.sync import SyncTail, tail
from tests.clients.scripted_gateway import EXPIRED, ScriptedGateway, batch, live, opened
from tests.clients.test_python_client import ADDRESS, UNAVAILABLE


def collected(following: SyncTail) -> tuple[list[str], str]:
    found: list[str] = []
    threads = threading.active_count()
    try:
        with following as deliveries:
            for delivery in deliveries:
                found += [event.event_id for event in delivery.events]
                # grpc.aio has one of its own for a process.
                assert threading.active_count() <= threads + 1
    except ChangeFeedRpcError as error:
        return found, error.category
    return found, "no error"


async def test_it_resumes_as_the_other_tail_does_and_raises_what_is_final() -> None:
    gateway = ScriptedGateway(
        [opened("t0"), batch("t1", "a"), UNAVAILABLE], [opened("t1"), batch("t2", "b"), live(), EXPIRED]
    )
    await gateway.start()
    try:
        found, category = await asyncio.to_thread(collected, tail(gateway.target, ADDRESS, BEGINNING))
    finally:
        await gateway.stop()
    assert (found, category) == (["a", "b"], "CHECKPOINT_EXPIRED")
    assert gateway.requests[1].start_position.continuation_token == "t1"


async def test_it_takes_a_client_of_ones_own_and_the_tails_options() -> None:
    gateway = ScriptedGateway([opened("t0"), batch("t1", "a")])
    await gateway.start()

    def once() -> list[str]:
        with tail(lambda: connect(gateway.target), ADDRESS, BEGINNING, max_events=1) as deliveries:
            return [event.event_id for delivery in deliveries for event in delivery.events]

    try:
        assert await asyncio.to_thread(once) == ["a"]
    finally:
        await gateway.stop()


def test_it_is_read_within_with() -> None:
    with pytest.raises(RuntimeError, match="within `with`"):
        next(tail("127.0.0.1:1", ADDRESS, BEGINNING))
