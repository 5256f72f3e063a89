"""The server's clock steps, by milliseconds, hours and days, both ways over midnight: retention goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from changefeed_gateway.core.model import Beginning
from changefeed_gateway.providers.postgres.embedded.host import find_binaries
from changefeed_gateway.providers.postgres.retention import run as retention
from tests.databases import BINARIES, LOG, PostgresForTests, running_postgres
from tests.postgres.history import DAY
from tests.postgres.shop import Shop, keys, open_shop

_LIBRARY = next((Path(__file__).parents[2] / ".faketime").glob("usr/lib/*/faketime/libfaketime.so.1"), None)


class Clock:
    """The clock of a server; ours goes on as it is."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.set(datetime.now(UTC))

    def set(self, time: datetime) -> None:
        """From now on it goes on from a time."""
        offset = (time - datetime.now(UTC)).total_seconds()
        self.file.write_text(f"{offset:+.6f}")
        self.time = time


@asynccontextmanager
async def server_with_clock() -> AsyncIterator[tuple[PostgresForTests, Clock]]:
    assert _LIBRARY is not None, "libfaketime is not there: run make .faketime/.stamp"
    with TemporaryDirectory(prefix="changefeed-clock-") as directory:
        clock = Clock(Path(directory) / "clock")
        binaries = await asyncio.to_thread(_with_library, Path(directory), clock.file)
        async with running_postgres(binaries) as server:
            yield server, clock


def _with_library(directory: Path, clock: Path) -> Path:
    """The server's programs, of which the server itself asks the library for the time."""
    programs = BINARIES or find_binaries(directory)
    for program in programs.iterdir():
        (directory / program.name).symlink_to(program)
    directory.chmod(0o755)
    (directory / "postgres").unlink()
    (directory / "postgres").write_text(
        f"#!/bin/sh\nexec env LD_PRELOAD={_LIBRARY} FAKETIME_TIMESTAMP_FILE={clock} FAKETIME_NO_CACHE=1"
        f' FAKETIME_DONT_FAKE_MONOTONIC=1 {programs / "postgres"} "$@"\n'
    )
    (directory / "postgres").chmod(0o755)
    return directory


async def live(shop: Shop, clock: Clock, time: datetime, number: int) -> None:
    """A change and its tick at a time."""
    clock.set(time)
    await shop.insert(number)
    await shop.tick(force=True)


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[tuple[PostgresForTests, Clock]]:
    async with server_with_clock() as server:
        yield server


@pytest.mark.parametrize("back", [False, True], ids=["ahead", "back"])
@pytest.mark.parametrize("step", [timedelta(milliseconds=20), timedelta(hours=3), 3 * DAY], ids=str)
@pytest.mark.req("P6", "DB-10")
async def test_retention_goes_on_after_a_step_of_the_clock(
    server: tuple[PostgresForTests, Clock], step: timedelta, back: bool
) -> None:
    postgres, clock = server
    clock.set(datetime.now(UTC))
    async with open_shop(await postgres.fresh(LOG)) as shop:
        await step_and_go_on(shop, clock, -step if back else step)


async def step_and_go_on(shop: Shop, clock: Clock, step: timedelta) -> None:
    """Over a midnight there and back, twice, then for as long as it takes to outlive it; two days are kept."""
    await retention.set_retention(shop.dsn, "public.orders", 2 * DAY)
    cursor = await shop.connection.execute("SELECT clock_timestamp()")
    [(now,)] = await cursor.fetchall()
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + 3 * DAY
    assert abs(now - clock.time) < timedelta(minutes=5), "the server has the clock"
    number, numbers = 0, []
    # Just before midnight a step ahead leads over it, just after it a step back.
    moment = midnight + (-0.3 if step > timedelta(0) else 0.3) * abs(min(abs(step), timedelta(hours=1)))
    for wrong in (timedelta(0), step, timedelta(0), step, timedelta(0)):
        number += 1
        moment += timedelta(milliseconds=1)
        await live(shop, clock, moment + wrong, number)
    for day in (0, 3, 6, 9):
        number += 1
        time = midnight + day * DAY + timedelta(hours=12)
        await live(shop, clock, time, number)
        numbers.append((time, number))
        [done] = await retention.run(shop.dsn)
        assert done.problem == "", (step, day)
    assert done.facts is not None
    assert [o for o in done.obstacles if o.alarm] == [], step
    dated = [d.ends for d in done.facts.days if not d.empty]
    assert min(dated) > done.facts.cutoff - DAY, step
    kept = [n for time, n in numbers if time > done.facts.cutoff]
    assert keys(await shop.page(Beginning()))[-len(kept) :] == kept
