"""What a provider keeps doing by itself, what it says of it, and how it ends."""

import asyncio
from contextlib import suppress
from datetime import timedelta

import psycopg
import pytest

from changefeed_gateway.core.errors import (
    ChangeFeedError,
    FeedNotProvisioned,
    NotFound,
    ProviderAuthorizationFailed,
    TransientFailure,
)
from changefeed_gateway.core.model import Beginning, Now
from changefeed_gateway.providers.postgres.provider import PostgresOptions, PostgresProvider
from changefeed_gateway.providers.postgres.ticks.sequences import SequenceWatch
from changefeed_gateway.providers.postgres.ticks.ticker import Cadence, TickAnswer
from tests.databases import PostgresForTests
from tests.postgres.reading import open_provider
from tests.postgres.roles import login
from tests.postgres.shop import open_shop

IMPATIENT = PostgresOptions(cadence=Cadence(outage_patience=timedelta(seconds=1)))


async def test_a_ping_asks_whether_the_change_log_can_be_read(database: str, postgres: PostgresForTests) -> None:
    async with open_provider(database) as provider:
        await provider.ping()
    async with login(database, "changefeed_fit", "changefeed_reader") as dsn, open_provider(dsn) as provider:
        await provider.ping()
    async with login(database, "changefeed_unfit") as dsn, open_provider(dsn) as provider:
        with pytest.raises(ProviderAuthorizationFailed, match="grant it changefeed_reader"):
            await provider.ping()
    async with open_provider(postgres.dsn("postgres")) as provider:
        with pytest.raises(FeedNotProvisioned, match="changefeed migrate"):
            await provider.ping()
    async with open_provider(postgres.dsn("nowhere"), IMPATIENT) as provider:
        with pytest.raises(NotFound):
            await provider.ping()


async def test_a_connection_whose_tasks_keep_failing_is_not_ready(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    failing = asyncio.Event()

    async def look(_: SequenceWatch) -> dict[int, int]:
        nonlocal looks
        looks += 1
        if looks > 3:
            failing.set()
        raise ZeroDivisionError

    monkeypatch.setattr(SequenceWatch, "_look", look)
    options = PostgresOptions(idle_cadence=timedelta(milliseconds=1))
    async with open_provider(database, options) as provider, asyncio.timeout(60):
        await provider.ping()
        await failing.wait()
        with pytest.raises(TransientFailure, match="watch of the sequences: ZeroDivisionError"):
            await provider.ping()


async def test_a_feed_whose_ticks_are_held_up_costs_the_others_nothing(database: str) -> None:
    """Any login may take the lock of a feed's ticks and keep it."""
    options = PostgresOptions(idle_cadence=timedelta(milliseconds=20))
    async with (
        login(database, "changefeed_holder") as dsn,
        await psycopg.AsyncConnection.connect(dsn) as holder,
        await psycopg.AsyncConnection.connect(database, autocommit=True) as writer,
    ):
        await holder.execute("SELECT pg_advisory_xact_lock(1667655785, 1)")
        await writer.execute("CREATE TABLE orders (id int PRIMARY KEY)")
        await writer.execute("SELECT changefeed.watch('orders')")
        await writer.execute("INSERT INTO documents.workspaces (name) VALUES ('w')")
        await writer.execute(
            "INSERT INTO documents.files (workspace_id, title) SELECT id, 'a' FROM documents.workspaces"
        )
        await writer.execute("INSERT INTO orders VALUES (1)")
        async with open_provider(database, options) as provider, asyncio.timeout(60):
            await provider.start()
            ticked = "SELECT max(last_seq) FROM changefeed_log.tick_2"
            while (await (await writer.execute(ticked)).fetchone()) != (1,):  # noqa: ASYNC110 - a table has no event
                await asyncio.sleep(0.1)
            await provider.ping()


async def test_a_feed_that_is_made_anew_sends_who_waits_for_the_old_one_away(log_database: str) -> None:
    async with open_shop(log_database) as shop, asyncio.timeout(60):
        await shop.page(Beginning())
        [feed] = shop.provider._feeds()
        asked = asyncio.Event()

        async def ask_for_ever() -> TickAnswer:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

        feed.ticker._ask = ask_for_ever
        asking = [asyncio.create_task(shop.page(Now())) for _ in range(5)]
        await asked.wait()
        await shop.connection.execute("SELECT changefeed.unwatch('orders')")
        await shop.connection.execute("SELECT changefeed.watch('orders')")
        await shop.provider.open_feed(shop.feed.address)
        answers = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(answer, ChangeFeedError) for answer in answers), answers


async def test_a_provider_that_is_closed_while_it_starts_starts_nothing(database: str) -> None:
    provider = PostgresProvider(database)
    before = asyncio.all_tasks()
    starting = asyncio.create_task(provider.start())
    await asyncio.sleep(0)
    await provider.aclose()
    with suppress(TransientFailure):
        await starting
    names = {task.get_name() for task in asyncio.all_tasks() - before}
    assert not names & {"doorbell", "watch of the sequences", "check of capture"}
