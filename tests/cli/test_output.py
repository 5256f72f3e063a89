"""What the command line writes: whole names, numbers as they were, one form of times and addresses."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from changefeed.v1.change_event_pb2 import ChangeEvent
from changefeed_gateway.cli import output
from changefeed_gateway.cli.arguments import chosen_feed, spelled
from changefeed_gateway.settings import EmbeddedServer, PostgresConnection, Settings
from tests.cli.conftest import CommandLine, MemoryGateway, finished
from tests.cli.test_reading import next_record, write

LONG = "n" * 300


def test_a_table_in_a_pipe_is_as_wide_as_what_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(["feed", "key"], [["short", "id"], [LONG, "id\nx\x1b"]])
    assert capsys.readouterr().out.splitlines() == [
        "feed".ljust(300) + "  key",
        "short".ljust(300) + "  id",
        LONG + "  id\\nx\\x1b",
    ]


def test_a_table_on_a_terminal_is_wrapped_and_cut_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(force_terminal=True, width=60, record=True, color_system=None)
    monkeypatch.setattr(output, "out", terminal)
    output.print_table(["feed", "key"], [[LONG, "id"]])
    shown = terminal.export_text()
    assert shown.count("n") == 300
    assert max(map(len, shown.splitlines())) <= 60


def test_an_item_is_json_with_its_numbers_as_they_were() -> None:
    item = '{"big": 12345678901234567890123, "exact": 1.10, "tiny": 1e-400,\n "text": "a\\nb"}'
    event = ChangeEvent(event_id="e", new_item_json=item)
    line = output.change_line(event, wire=False)
    assert "\n" not in line
    assert json.loads(line, parse_float=str, parse_int=str) == {
        "type": "change",
        "event_id": "e",
        "item": {"big": "12345678901234567890123", "exact": "1.10", "tiny": "1e-400", "text": "a\nb"},
    }
    assert json.loads(output.change_line(event, wire=True))["new_item_json"] == item
    assert "item" not in json.loads(output.change_line(ChangeEvent(event_id="e"), wire=False))


def test_times_and_durations_are_written_as_the_contract_writes_them() -> None:
    assert output.time_text(datetime(2026, 1, 31, 12, tzinfo=UTC)) == "2026-01-31T12:00:00Z"
    assert output.seconds_text(timedelta(days=7, milliseconds=500)) == "604800.500s"


def test_an_address_is_spelled_as_it_is_read() -> None:
    main = PostgresConnection(embedded=EmbeddedServer())
    settings = Settings(connections={"main": main})
    assert spelled("main", "public.orders") == "main/public.orders"
    assert spelled("main", 'public."My Orders"') == "'main/public.\"My Orders\"'"
    for address, connection in (("main/a.b", None), ("a.b", None), ("a.b", "main"), ("main/a.b", "main")):
        assert chosen_feed(settings, address, connection) == ("main", "a.b")
    assert chosen_feed(settings, "odd/a.b", None) == ("main", "odd/a.b")


@pytest.mark.parametrize(("option", "tokens"), [("--json", 2), ("--wire", 4)])
async def test_a_heartbeat_prints_its_token_when_it_is_asked_to(
    changefeed: CommandLine, memory_gateway: MemoryGateway, option: str, tokens: int
) -> None:
    arguments = ("tail", "mem/documents", "--heartbeat", "500ms", "--max-events", "1", option)
    tail = await changefeed.start(*arguments)
    positions = [await next_record(tail, "position") for _ in range(4)]
    assert "continuation_token" in positions[0]
    write(memory_gateway, "one")
    positions += [r for r in (await finished(tail)).records if r["type"] == "position"]
    assert "continuation_token" in positions[-1]
    silent = [position for position in positions if "continuation_token" not in position]
    assert bool(silent) is (tokens == 2)
