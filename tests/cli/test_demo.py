"""`changefeed demo`: what was committed is received, also over an end and a kill, and nothing is left running."""

import asyncio
import json
import re
import signal
from pathlib import Path

import pytest

from changefeed.v1.change_event_pb2 import CHANGE_TYPE_UPDATE, ChangeEvent, Key, KeyComponent
from changefeed.v1.resource_pb2 import ResourceAddress
from changefeed_gateway.cli.demo.ledger import Ledger
from changefeed_gateway.cli.demo.mirror import Mirror
from changefeed_gateway.cli.demo.orders import TABLE
from changefeed_gateway.cli.demo.view import View
from tests.cli.conftest import CommandLine, Result, finished
from tests.cli.test_gateway_process import GatewayProcess, servers_under


def figures(result: Result) -> tuple[int, int]:
    """What was committed, what was received."""
    found = re.search(r"committed\s+([\d,]+) changes.*\nreceived\s+([\d,]+) changes, 0 twice\n", result.out)
    assert found, result
    return int(found[1].replace(",", "")), int(found[2].replace(",", ""))


async def demo(detached: CommandLine, *arguments: str) -> asyncio.subprocess.Process:
    return await detached.start("demo", *arguments, environment={"CHANGEFEED_LISTEN": "127.0.0.1:0"})


async def test_it_ends_by_itself_and_resumes(detached: CommandLine) -> None:
    first = await finished(await demo(detached, "--for", "2"))
    assert first.code == 0, first
    committed, received = figures(first)
    assert committed == received > 0
    assert "equal to the source" in first.out
    assert "tail main/documents --target" in first.out
    assert "grpcurl" in first.out
    assert not servers_under(detached.directory)

    gateway = GatewayProcess(detached.directory)
    await gateway.start()
    gateway.upload("one", "two", "three")
    await gateway.stop()
    second = await finished(await demo(detached, "--for", "1"))
    assert second.code == 0, second
    assert "resumed: 3 changes" in second.err
    assert not servers_under(detached.directory)


async def test_the_promise_is_shown_in_the_middle_and_nothing_is_lost(detached: CommandLine) -> None:
    shown = await finished(await demo(detached, "--for", "4"))
    assert shown.code == 0, shown
    for said in ("PostgreSQL is restarted", "the gateway is killed", "the consumer is killed"):
        assert said in shown.err
    assert "lost       nothing" in shown.out
    assert '" created' in shown.out
    assert "order " in shown.out
    assert "deleted by now" not in shown.out
    assert "embedded PostgreSQL in " in shown.err
    machine = await finished(await demo(detached, "--for", "2", "--json"))
    kinds = {record["type"] for record in machine.records}
    assert kinds == {"said", "change", "counters", "outcome"}
    assert machine.records[-1]["equal"] is True


async def test_a_killed_demo_resumes(detached: CommandLine) -> None:
    killed = await demo(detached)
    assert killed.stdout is not None
    async with asyncio.timeout(60):
        while b"commit to arrival" not in (line := await killed.stdout.readline()) or b"received 0" in line:
            assert line, await finished(killed)
    killed.kill()
    await killed.communicate()
    again = await finished(await demo(detached, "--for", "1"))
    assert again.code == 0, again
    assert "equal to the source" in again.out
    assert not servers_under(detached.directory)


async def test_ctrl_c_compares_too_and_leaves_nothing(detached: CommandLine) -> None:
    running = await demo(detached)
    assert running.stdout is not None
    async with asyncio.timeout(60):
        while b"commit to arrival" not in await running.stdout.readline():
            pass
    second = await finished(await demo(detached))
    assert second.code == 2
    assert "already" in second.err
    running.send_signal(signal.SIGINT)
    result = await finished(running)
    assert result.code == 0, result
    assert not servers_under(detached.directory)


async def test_a_change_that_does_not_arrive_is_told(detached: CommandLine) -> None:
    """The comparison itself is tested: without its trigger, an update is committed and never received."""
    gateway = GatewayProcess(detached.directory)
    await gateway.start()
    await gateway.stop()
    await finished(await demo(detached, "--for", "1"))
    await gateway.start()
    gateway.execute("ALTER TABLE documents.file_tags DISABLE TRIGGER changefeed_insert")
    await gateway.stop()
    lossy = await finished(await demo(detached, "--for", "2"))
    assert lossy.code == 11, lossy
    assert "differs: document" in lossy.err


async def test_a_lost_place_starts_over(detached: CommandLine) -> None:
    first = await finished(await demo(detached, "--for", "1"))
    assert first.code == 0, first
    state = detached.directory / ".changefeed" / "demo.json"
    saved = json.loads(state.read_text())
    state.write_text(json.dumps({**saved, "token": "x" * 100}))
    again = await finished(await demo(detached, "--for", "1"))
    assert again.code == 0, again
    assert "starting over" in again.err


def test_a_busy_collection_does_not_hide_another_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = [
        ChangeEvent(
            address=ResourceAddress(collection=collection),
            key=Key(partition_key="w", components=[KeyComponent(value=str(number))]),
            change_type=CHANGE_TYPE_UPDATE,
            new_item_json=item,
        )
        for collection, item, count in (
            ("documents", '{"title": "a title", "tags": [], "last_run": null}', 100),
            (TABLE, '{"amount": 1, "item": "lamp", "paid": true}', 1),
        )
        for number in range(count)
    ]
    with View("127.0.0.1:1", Ledger(), Mirror(tmp_path / "mirror")) as view:
        view.take(events)
    shown = capsys.readouterr().out
    assert "order 0: 1 x lamp, paid" in shown
    assert "... and 89 more" in shown
