"""`read` and `tail`: what they print, where they go on, how they end."""

import asyncio
import json
import signal
from datetime import timedelta
from typing import Any

import pytest

from tests.cli.conftest import CommandLine, MemoryGateway, finished

DOCUMENTS = "mem/documents"


def write(gateway: MemoryGateway, *names: str) -> None:
    for name in names:
        gateway.documents.put("workspace", name, {"name": name})


def names(records: list[dict[str, Any]]) -> list[str]:
    return [r["item"]["name"] for r in records if r["type"] == "change"]


async def next_record(process: asyncio.subprocess.Process, kind: str) -> dict[str, Any]:
    """The next JSON line of a kind; passes over others."""
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while line := await process.stdout.readline():
            record: dict[str, Any] = json.loads(line)
            if record["type"] == kind:
                return record
    raise AssertionError(f"no {kind} came")


async def test_read_prints_changes_and_a_token_that_goes_on(
    changefeed: CommandLine, memory_gateway: MemoryGateway
) -> None:
    write(memory_gateway, "one", "two")
    first = await changefeed.run("read", DOCUMENTS)
    assert first.code == 0
    assert first.out.count("CREATE") == 2
    assert '{"name":"one"}' in first.out
    write(memory_gateway, "three")
    second = await changefeed.run("read", DOCUMENTS, "--from", first.token, "--json")
    assert names(second.records) == ["three"]


async def test_a_key_is_no_order_to_the_terminal(changefeed: CommandLine, memory_gateway: MemoryGateway) -> None:
    memory_gateway.documents.put("workspace", "\x1b[2J\x9b31m", {"name": "\x9b31m"})
    result = await changefeed.run("read", DOCUMENTS)
    assert "\\x1b[2J\\x9b31m" in result.out
    assert "\x1b" not in result.out
    assert "\x9b" not in result.out


async def test_read_of_an_empty_collection_prints_a_token_too(
    changefeed: CommandLine, memory_gateway: MemoryGateway
) -> None:
    empty = await changefeed.run("read", DOCUMENTS)
    assert empty.code == 0
    write(memory_gateway, "one")
    later = await changefeed.run("read", DOCUMENTS, "--from", empty.token, "--json")
    assert names(later.records) == ["one"]


async def test_read_takes_every_page_and_stops_at_max_events(
    changefeed: CommandLine, memory_gateway: MemoryGateway
) -> None:
    expected = [f"n{number}" for number in range(25)]
    write(memory_gateway, *expected)
    everything = await changefeed.run("read", DOCUMENTS, "--page-size", "4", "--json")
    assert sorted(names(everything.records)) == sorted(expected)
    some = await changefeed.run("read", DOCUMENTS, "--page-size", "4", "--max-events", "10", "--json")
    assert len(names(some.records)) == 10
    assert some.records[-1]["type"] == "page"
    rest = await changefeed.run("read", DOCUMENTS, "--from", some.records[-1]["continuation_token"], "--json")
    assert sorted(names(some.records) + names(rest.records)) == sorted(expected)


async def test_read_without_items(changefeed: CommandLine, memory_gateway: MemoryGateway) -> None:
    write(memory_gateway, "one")
    omitted = await changefeed.run("read", DOCUMENTS, "--items", "omit", "--json")
    assert omitted.records[0]["item_state"] == "ITEM_STATE_OMITTED"
    assert "(omitted)" in (await changefeed.run("read", DOCUMENTS, "--items", "omit")).out


async def test_read_of_one_partition_and_one_key(changefeed: CommandLine, memory_gateway: MemoryGateway) -> None:
    write(memory_gateway, "one")
    memory_gateway.documents.put("elsewhere", "two", {"name": "two"})
    key = await changefeed.run("read", DOCUMENTS, "--logical-partition", "elsewhere", "--json")
    assert names(key.records) == ["two"]
    parts = await changefeed.run("partitions", "list", DOCUMENTS, "--json")
    found: list[str] = []
    for part in parts.records:
        page = await changefeed.run("read", DOCUMENTS, "--partition", part["partition_id"], "--json")
        found += names(page.records)
    assert sorted(found) == ["one", "two"]


async def test_read_waits_for_a_first_change(changefeed: CommandLine, memory_gateway: MemoryGateway) -> None:
    token = (await changefeed.run("read", DOCUMENTS, "--from", "now")).token
    waiting = await changefeed.start("read", DOCUMENTS, "--from", token, "--max-wait", "30s", "--json")
    write(memory_gateway, "one")
    assert names((await finished(waiting)).records) == ["one"]


@pytest.mark.req("US2.1")
async def test_read_keeps_its_place(changefeed: CommandLine, memory_gateway: MemoryGateway) -> None:
    write(memory_gateway, "one")
    first = await changefeed.run("read", DOCUMENTS, "--resume", "place", "--json")
    write(memory_gateway, "two")
    second = await changefeed.run("read", DOCUMENTS, "--resume", "place", "--from", "beginning", "--json")
    assert (names(first.records), names(second.records)) == (["one"], ["two"])
    place = (changefeed.directory / "place").read_text().strip()
    assert place == second.records[-1]["continuation_token"]


async def test_tail_misses_nothing_after_it_said_where_it_stands(
    changefeed: CommandLine, memory_gateway: MemoryGateway
) -> None:
    write(memory_gateway, "before")
    tail = await changefeed.start("tail", DOCUMENTS, "--max-events", "2", "--json")
    await next_record(tail, "position")
    write(memory_gateway, "one", "two")
    result = await finished(tail)
    assert result.code == 0
    assert names(result.records) == ["one", "two"]
    assert result.records[-1]["type"] == "position"


@pytest.mark.req("US2.1", "SC-2")
async def test_tail_goes_on_after_a_kill(changefeed: CommandLine, memory_gateway: MemoryGateway) -> None:
    arguments = ("tail", DOCUMENTS, "--from", "beginning", "--resume", "place", "--json")
    found: list[str] = []
    for round_ in range(3):
        expected = [f"{round_}-{number}" for number in range(5)]
        write(memory_gateway, *expected)
        tail = await changefeed.start(*arguments)
        while not set(expected) <= set(found):
            found += names([await next_record(tail, "change")])
        tail.kill()
        await tail.wait()
    assert set(found) == {f"{round_}-{number}" for round_ in range(3) for number in range(5)}
    token = (changefeed.directory / "place").read_text().strip()
    inspected = await changefeed.run("token", "inspect", DOCUMENTS, token)
    assert inspected.code == 0


async def test_tail_resumes_after_the_gateway_restarted(changefeed: CommandLine, memory_gateway: MemoryGateway) -> None:
    tail = await changefeed.start("tail", DOCUMENTS, "--max-events", "1", "--json")
    await next_record(tail, "position")
    await memory_gateway.stop(timedelta(seconds=10))
    await memory_gateway.start()
    write(memory_gateway, "one")
    result = await finished(tail)
    assert result.code == 0
    assert names(result.records) == ["one"]


async def test_an_interrupted_tail_prints_its_token(changefeed: CommandLine, memory_gateway: MemoryGateway) -> None:
    tail = await changefeed.start("tail", DOCUMENTS)
    assert tail.stderr is not None
    async with asyncio.timeout(30):
        assert b"live" in await tail.stderr.readline()
    tail.send_signal(signal.SIGINT)
    result = await finished(tail)
    assert result.code == 130
    assert "Traceback" not in result.err
    write(memory_gateway, "one")
    rest = await changefeed.run("read", DOCUMENTS, "--from", result.token, "--json")
    assert names(rest.records) == ["one"]


async def test_a_closed_pipe_ends_quietly(changefeed: CommandLine, memory_gateway: MemoryGateway) -> None:
    write(memory_gateway, *(f"{'n' * 100}{number}" for number in range(3_000)))
    reading = await changefeed.start("read", DOCUMENTS, "--page-size", "100")
    assert reading.stdout is not None
    await reading.stdout.readline()
    reading._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
    assert reading.stderr is not None
    async with asyncio.timeout(30):
        assert await reading.stderr.read() == b""
        assert await reading.wait() == 141


@pytest.mark.parametrize(
    "text", ["yesterday", "eyJ", "2026-13-01", "9" * 30 + "d", "999999999d", "0001-01-01T00:00:00", "\udcff" * 50]
)
async def test_a_start_that_is_none_is_a_usage_error(detached: CommandLine, text: str) -> None:
    result = await detached.run("read", DOCUMENTS, "--from", text)
    assert result.code == 2
    assert "token" in result.err
    assert "Traceback" not in result.err


@pytest.mark.req("CF-12")
async def test_read_and_tail_begin_with_a_snapshot(changefeed: CommandLine, memory_gateway: MemoryGateway) -> None:
    write(memory_gateway, "one", "two")
    memory_gateway.documents.trim()
    read = await changefeed.run("read", DOCUMENTS, "--from", "snapshot")
    assert read.code == 0
    assert read.out.count("SNAPSHOT") == 2
    process = await changefeed.start("tail", DOCUMENTS, "--from", "snapshot", "--json")
    progress = await next_record(process, "change")
    assert progress["change_type"] == "CHANGE_TYPE_SNAPSHOT"
    while not (await next_record(process, "position"))["live"]:
        pass
    process.send_signal(signal.SIGINT)
    assert (await finished(process)).code == 130
