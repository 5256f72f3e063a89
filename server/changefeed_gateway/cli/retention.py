"""`changefeed retention ...`: how long history is kept, and what is done about it."""

import asyncio
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from changefeed_gateway.app import operations
from changefeed_gateway.cli.arguments import Connection, chosen_connection, chosen_feed, duration_like, spelled
from changefeed_gateway.cli.exits import ExitCode, exits
from changefeed_gateway.cli.options import Config, Json
from changefeed_gateway.cli.output import err, out, print_json, print_table, seconds_text, time_text
from changefeed_gateway.settings import load_settings
from changefeed_gateway.settings.values import format_duration

if TYPE_CHECKING:
    from changefeed_gateway.app.operations import FeedRetention

app = typer.Typer(help="Days of the change log: made ahead, dropped after the feed's retention.", no_args_is_help=True)


@app.command()
def run(connection: Connection = None, config: Config = None, json: Json = False) -> None:
    """Make days ahead and drop what is older than each feed's retention. Again without harm."""
    with exits():
        name, found = _ask(connection, config, change=True)
        _show_steps(name, found, json=json)
    raise typer.Exit(ExitCode.UNHEALTHY if any(feed.problem for feed in found) else ExitCode.OK)


@app.command()
def plan(connection: Connection = None, config: Config = None, json: Json = False) -> None:
    """Say what a run would do, and why; changes nothing."""
    with exits():
        _show_steps(*_ask(connection, config, change=False), json=json)


@app.command()
def status(connection: Connection = None, config: Config = None, json: Json = False) -> None:
    """Say what each feed holds, and what is in the way of retention."""
    with exits():
        name, found = _ask(connection, config, change=False)
        if json:
            for feed in found:
                print_json("retention", _as_json(name, feed))
        else:
            _show_table(name, found)
            for feed in found:
                _show_obstacles(feed)
    alarmed = any(obstacle.alarm for feed in found for obstacle in feed.obstacles)
    raise typer.Exit(ExitCode.UNHEALTHY if alarmed else ExitCode.OK)


@app.command(name="set")
def set_(
    feed: Annotated[str, typer.Argument(help="The feed, such as main/public.orders.")],
    retention: Annotated[timedelta, typer.Argument(parser=duration_like("14d"), help="1d to 366d.")],
    connection: Connection = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Choose how long the history of a feed is kept."""
    with exits():
        settings = load_settings(config)
        name, feed = chosen_feed(settings, feed, connection)
        asyncio.run(operations.set_retention(settings, name, feed, retention))
        if json:
            print_json("retention", {"address": f"{name}/{feed}", "retention": seconds_text(retention)})
            return
        kept = f"{spelled(name, feed)}: history is kept for {format_duration(retention)}"
        out.print(kept, markup=False, soft_wrap=True)


def _ask(connection: str | None, config: Path | None, *, change: bool) -> "tuple[str, list[FeedRetention]]":
    settings = load_settings(config)
    name = chosen_connection(settings, connection)
    with err.status(f"retention of {name}"):
        return name, asyncio.run(operations.retention(settings, name, change=change))


def _show_steps(connection: str, found: "list[FeedRetention]", *, json: bool) -> None:
    for feed in found:
        if json:
            print_json("retention", _as_json(connection, feed))
            continue
        state = "another run is at work" if feed.busy else "nothing to do" if not feed.steps else ""
        out.print(Text(f"{spelled(connection, feed.feed)}: {state}".rstrip(": ")), soft_wrap=True)
        for step in feed.steps:
            days = " ".join(day.name for day in step.days)
            out.print(Text(f"  {step.action.value} {days}".rstrip() + f": {step.reason}"), soft_wrap=True)
        if feed.problem:
            out.print(Text(f"  stopped: {feed.problem}", "red"), soft_wrap=True)
        _show_obstacles(feed)


def _show_obstacles(feed: "FeedRetention") -> None:
    for obstacle in feed.obstacles:
        style = "yellow" if obstacle.alarm else ""
        remedy = f" - {obstacle.remedy}" if obstacle.remedy else ""
        out.print(Text(f"  {obstacle.day}: {obstacle.reason}{remedy}", style), soft_wrap=True)


def _show_table(connection: str, found: "list[FeedRetention]") -> None:
    rows = []
    for feed in found:
        last_run = _to_the_second(feed.last_run) if feed.last_run else "never"
        facts = feed.facts
        figures = ["", str(feed.days_ahead), "", "", "", ""]
        if facts:
            figures = [
                format_duration(facts.retention),
                str(feed.days_ahead),
                f"{facts.oldest_day:%Y-%m-%d}" if facts.oldest_day else "",
                _to_the_second(facts.oldest_tick_at),
                f"{facts.log_bytes / 1e6:,.1f} MB",
                f"{facts.tick_bytes / 1e6:,.1f} MB",
            ]
        last_run += f": {feed.last_problem}" if feed.last_problem else ""
        rows.append([spelled(connection, feed.feed), *figures, last_run])
    headings = ["feed", "retention", "days ahead", "oldest day", "earliest position", "log", "ticks", "last run"]
    print_table(headings, rows)


def _to_the_second(time: datetime) -> str:
    return time_text(time.replace(microsecond=0))


def _as_json(connection: str, feed: "FeedRetention") -> dict[str, Any]:
    """For machines: times and durations as the contract's JSON has them, sizes in bytes."""
    return {
        "address": f"{connection}/{feed.feed}",
        "feed": feed.feed,
        "busy": feed.busy,
        "days_ahead": feed.days_ahead,
        "problem": feed.problem,
        "steps": [
            {"action": step.action.value, "days": [day.name for day in step.days], "reason": step.reason}
            for step in feed.steps
        ],
        "obstacles": [asdict(obstacle) for obstacle in feed.obstacles],
        "last_run": time_text(feed.last_run) if feed.last_run else None,
        "last_problem": feed.last_problem,
        **_figures(feed),
    }


def _figures(feed: "FeedRetention") -> dict[str, Any]:
    if (facts := feed.facts) is None:
        return {}
    return {
        "retention": seconds_text(facts.retention),
        "oldest_day": facts.oldest_day.isoformat() if facts.oldest_day else None,
        "earliest_position": time_text(facts.oldest_tick_at),
        "log_bytes": facts.log_bytes,
        "tick_bytes": facts.tick_bytes,
        "overflow": facts.overflown,
    }
