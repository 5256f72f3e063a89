"""The Python client keeps tokens: of what was handled, all or none, and never in silence instead of a damaged file."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from changefeed.v1.change_event_pb2 import ChangeEvent
from changefeed_client import (
    BEGINNING,
    WHOLE,
    ChangeFeedClient,
    ChangeFeedRpcError,
    Checkpoint,
    FileCheckpoint,
    MemoryCheckpoint,
    Positions,
    after,
    collection,
    connect,
    physical_partition,
)
from changefeed_client.seen import Seen
from tests.clients.scripted_gateway import EXPIRED, Script, ScriptedGateway, Silence, batch, opened

ADDRESS = collection("main/documents")


@asynccontextmanager
async def playing(*scripts: Script) -> AsyncIterator[tuple[ScriptedGateway, ChangeFeedClient]]:
    gateway = ScriptedGateway(*scripts)
    async with asyncio.timeout(20), connect(await gateway.start()) as client:
        yield gateway, client
    await gateway.stop()


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_some_positions_change_and_an_empty_token_removes_one(kind: str, tmp_path: Path) -> None:
    checkpoint: Checkpoint = MemoryCheckpoint() if kind == "memory" else FileCheckpoint(tmp_path / "positions.json")
    assert dict(await checkpoint.load()) == {}
    await asyncio.gather(*(checkpoint.save({f"{number}": "t", "a": "1"}) for number in range(8)))
    await checkpoint.save({"a": "", "b": "2"})
    assert dict(await checkpoint.load()) == {**{f"{number}": "t" for number in range(8)}, "b": "2"}
    if kind == "file":
        assert await FileCheckpoint(tmp_path / "positions.json").load() == await checkpoint.load()
        assert os.listdir(tmp_path) == ["positions.json"]


async def test_a_checkpoint_is_never_written_through_a_link_of_somebody_else(tmp_path: Path) -> None:
    """In a directory for everybody, somebody could have our positions written over a file of ours."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "positions.json.new").symlink_to(precious)
    await FileCheckpoint(tmp_path / "positions.json").save({WHOLE: "t"})
    assert precious.read_text() == "precious"
    assert dict(await FileCheckpoint(tmp_path / "positions.json").load()) == {WHOLE: "t"}


@pytest.mark.parametrize("content", ["", "[]", '{"*": 1}', "null"])
async def test_a_damaged_file_is_no_missing_one(content: str, tmp_path: Path) -> None:
    file = tmp_path / "positions.json"
    file.write_text(content)
    checkpoint = FileCheckpoint(file)
    with pytest.raises(ValueError, match="holds no positions"):
        await checkpoint.load()
    with pytest.raises(ValueError, match="holds no positions"):
        await checkpoint.save({WHOLE: "t"})
    assert file.read_text() == content


async def test_a_token_is_saved_when_the_next_delivery_is_asked_for() -> None:
    checkpoint = MemoryCheckpoint()
    async with playing([opened("t0"), batch("t1", "a"), batch("t2", "b"), EXPIRED]) as (_, client):
        tail = client.tail(ADDRESS, BEGINNING, checkpoint=checkpoint)
        for saved in ({}, {WHOLE: "t0"}, {WHOLE: "t1"}):
            await anext(tail)
            assert await checkpoint.load() == saved
        with pytest.raises(ChangeFeedRpcError):
            await anext(tail)
    assert await checkpoint.load() == {WHOLE: "t2"}


async def test_a_loop_that_is_left_gets_its_last_delivery_again() -> None:
    checkpoint = MemoryCheckpoint()
    async with playing([opened("t0"), batch("t1", "a"), Silence()], [EXPIRED]) as (gateway, client):
        async with client.tail(ADDRESS, BEGINNING, checkpoint=checkpoint) as tail:
            async for delivery in tail:
                if delivery.events:
                    break
        with suppress(ChangeFeedRpcError):
            await anext(client.tail(ADDRESS, BEGINNING, checkpoint=checkpoint))
        assert [request.start_position for request in gateway.requests] == [BEGINNING, after("t0")]


async def test_a_second_loop_over_a_tail_takes_nothing_for_handled() -> None:
    checkpoint = MemoryCheckpoint()
    async with (
        playing([opened("t0"), batch("t1", "a"), batch("t2", "b"), Silence()]) as (_, client),
        client.tail(ADDRESS, BEGINNING, checkpoint=checkpoint) as tail,
    ):
        async for delivery in tail:
            if delivery.events:
                break
        with pytest.raises(RuntimeError, match="comes again from another tail"):
            aiter(tail)
        assert dict(await checkpoint.load()) == {WHOLE: "t0"}
        # Who asks for one after the other has handled what came before.
        assert (await anext(tail)).continuation_token == "t2"
        assert dict(await checkpoint.load()) == {WHOLE: "t1"}


async def test_a_file_that_cannot_be_read_is_not_taken_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever `Path.exists` says of it, which from Python 3.14 on is that it is not there."""
    checkpoint = FileCheckpoint(tmp_path / "positions.json")
    await checkpoint.save({WHOLE: "t"})

    def stale(*_: object, **__: object) -> str:
        raise OSError(errno.ESTALE, "stale")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", stale)
        patched.setattr(Path, "exists", lambda _: False)
        for use in (checkpoint.load(), checkpoint.save({"other": "t"})):
            with pytest.raises(OSError, match="stale"):
                await use
    assert dict(await checkpoint.load()) == {WHOLE: "t"}


async def test_a_save_that_is_cancelled_is_made_by_the_next_reader() -> None:
    class Slow(MemoryCheckpoint):
        stuck = True

        async def save(self, changes: Positions) -> None:
            if self.stuck:
                await asyncio.Event().wait()
            await super().save(changes)

    checkpoint = Slow()
    async with playing([opened("t0"), batch("t1", "a"), Silence()]) as (_, client):
        tail = client.tail(ADDRESS, BEGINNING, checkpoint=checkpoint)
        await anext(tail)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(tail), 0.01)
        checkpoint.stuck = False
        assert (await anext(tail)).continuation_token == "t1"
    assert await checkpoint.load() == {WHOLE: "t0"}


async def test_a_partition_is_saved_under_its_own_name() -> None:
    checkpoint = MemoryCheckpoint()
    async with playing([opened("t0"), EXPIRED]) as (_, client):
        tail = client.tail(ADDRESS, BEGINNING, scope=physical_partition("p"), checkpoint=checkpoint)
        await anext(tail)
        with pytest.raises(ChangeFeedRpcError):
            await anext(tail)
    assert await checkpoint.load() == {"p": "t0"}


def test_the_window_forgets_the_oldest() -> None:
    seen = Seen(2)

    def fresh(*ids: str) -> list[str]:
        return [event.event_id for event in seen.fresh([ChangeEvent(event_id=name) for name in ids])]

    assert [fresh("a", "b", "a"), fresh("b", "c"), fresh("a", "c")] == [["a", "b"], ["c"], ["a"]]


def test_a_bearer_token_needs_tls() -> None:
    with pytest.raises(ValueError, match="TLS"):
        connect("127.0.0.1:1", bearer=lambda: "t")
