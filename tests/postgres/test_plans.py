"""A resume costs the same in a long log as in a short one: nothing that it asks reads in proportion to the history."""

import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import fields
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import sql

from changefeed_gateway.core.errors import CheckpointExpired
from changefeed_gateway.core.model import (
    After,
    AtTime,
    Beginning,
    Cursor,
    EntireCollection,
    LogicalPartition,
    PageRead,
    PartitionId,
    PhysicalPartition,
    Scope,
)
from changefeed_gateway.providers.postgres.connections import Connection, Connections
from changefeed_gateway.providers.postgres.cursor import Position, encode_position
from changefeed_gateway.providers.postgres.retention import run as retention
from changefeed_gateway.providers.postgres.statements import Statements
from tests.databases import LOG, PostgresForTests
from tests.postgres.history import DAY, live_since
from tests.postgres.reading import open_provider, page_read
from tests.postgres.shop import QUIET, Shop, open_shop

pytestmark = pytest.mark.xdist_group("plans")
"""One process writes the histories, and not each."""

SHORT = 2_000
"""Changes in the short log; the long one has ten times as many."""
LARGE = 300
"""Changes of the transaction that is open for a while."""
PAGE = 100

STATEMENTS = Statements.of_feed(1, None)
DAY_TABLE = re.compile(r"(log|tick)_1_")

WRITE = """
CREATE FUNCTION write_changes(low int, high int, days_ago int, every int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key, image)
    SELECT pg_current_xact_id(), clock_timestamp() - make_interval(days => days_ago), changefeed.bucket(k), true,
           'upsert', k, n::text, repeat('x', CASE WHEN n % 20 = 0 THEN 9000 ELSE 100 END)
    FROM generate_series(low, high) n, LATERAL (SELECT CASE WHEN n % every = 0 THEN 'rare' ELSE (n % 5)::text END) p (k)
$$;
CREATE PROCEDURE write_batches(low int, high int, days_ago int, every int) LANGUAGE plpgsql AS $$
    BEGIN
        FOR n IN low..high BY 10 LOOP
            PERFORM write_changes(n, n + 9, days_ago, every);
            COMMIT;
            PERFORM changefeed.tick(1);
            COMMIT;
        END LOOP;
        UPDATE changefeed_log.tick_1
            SET at = at - days_ago * interval '1 day', reached = reached - days_ago * interval '1 day',
                day = day - (days_ago::bigint << 40)
            WHERE at > now() - interval '1 hour';
    END
$$;
"""
"""Batches of ten. `every` so many changes one is of the key "rare"."""


class Asked(NamedTuple):
    """A statement of the gateway and what it was given."""

    name: str
    text: str
    arguments: Mapping[str, Any]


class History(NamedTuple):
    """A log of some days, and positions in it."""

    shop: Shop
    few: PhysicalPartition
    """So few buckets that they are read through their own index."""
    many: PhysicalPartition
    dropped: Cursor
    """In the first day, which retention has dropped since."""
    anywhere: Cursor
    late: datetime
    """Late in a day of many ticks."""
    amid_open: Cursor
    """While a transaction was under way; the page after it goes beyond its end."""
    before_large: Cursor
    """The next batch is that transaction's, and larger than a page."""
    amid_large: Cursor


async def write_history(shop: Shop, changes: int) -> History:
    """Four days, in the third of which a transaction is open for ten batches; the first has been dropped since."""
    await live_since(shop.connection, 5)
    await shop.connection.execute(WRITE.encode())
    # Of the five partition keys, "2" lies in the few buckets, and three after them.
    _, rest = await split(shop, "0-4095", 512)
    few, many = await split(shop, str(rest.partition_id), 528)
    quarter, opened = changes // 4, changes * 5 // 8
    await write_batches(shop, 0, quarter, 4, changes)
    await write_batches(shop, quarter, 2 * quarter, 3, changes)
    await write_batches(shop, 2 * quarter, opened, 2, changes)
    async with await psycopg.AsyncConnection.connect(shop.dsn) as writer:
        await writer.execute("SELECT write_changes(1, %s, 2, 1000000)", (LARGE,))
        number = await last_number(shop)
        await write_batches(shop, opened, opened + 100, 2, changes)
        await writer.commit()
    large = await shop.tick()
    await write_batches(shop, opened + 100, 3 * quarter, 2, changes)
    await write_batches(shop, 3 * quarter, changes, 1, changes)
    newest = await shop.tick()
    await shop.connection.execute("VACUUM ANALYZE changefeed_log.log_1, changefeed_log.tick_1")
    history = History(
        shop,
        few,
        many,
        dropped=await cursor_at(shop, Position(newest // 8)),
        anywhere=await cursor_at(shop, Position(newest * 3 // 8)),
        late=await time_of(shop, newest * 7 // 16),
        amid_open=await cursor_at(shop, Position(large - 3)),
        before_large=await cursor_at(shop, Position(large - 1)),
        amid_large=await cursor_at(shop, Position(large - 1, number - LARGE // 2)),
    )
    await retention.set_retention(shop.dsn, "public.orders", 3 * DAY)
    assert [done.problem for done in await retention.run(shop.dsn)] == [""]
    return history


async def split(shop: Shop, partition_id: str, first_bucket: int) -> list[PhysicalPartition]:
    cursor = await shop.connection.execute(
        "SELECT * FROM changefeed.split_partition('public.orders', %s, %s)", (partition_id, first_bucket)
    )
    return [PhysicalPartition(PartitionId(row[1])) for row in await cursor.fetchall()]


async def write_batches(shop: Shop, after: int, to: int, days_ago: int, changes: int) -> None:
    await shop.connection.execute("CALL write_batches(%s, %s, %s, %s)", (after + 1, to, days_ago, changes // 8))


async def last_number(shop: Shop) -> int:
    cursor = await shop.connection.execute("SELECT last_value FROM changefeed_log.seq_1")
    [(number,)] = await cursor.fetchall()
    return int(number)


async def cursor_at(shop: Shop, position: Position) -> Cursor:
    return encode_position(position, await time_of(shop, position.batch))


async def time_of(shop: Shop, tick: int) -> datetime:
    cursor = await shop.connection.execute("SELECT at FROM changefeed_log.tick_1 WHERE id = %s", (tick,))
    [(at,)] = await cursor.fetchall()
    assert isinstance(at, datetime)
    return at


@pytest.fixture(scope="module")
async def histories(postgres: PostgresForTests) -> AsyncIterator[list[History]]:
    """The same history twice, the second time with ten times as many changes."""
    async with AsyncExitStack() as stack:
        found = []
        for changes in (SHORT, 10 * SHORT):
            dsn = await postgres.fresh(LOG)
            stack.push_async_callback(postgres.drop, dsn)
            found.append(await write_history(await stack.enter_async_context(open_shop(dsn)), changes))
        yield found


# --- What a read asks, and what that costs


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Asked]]:
    """The statements of the feed that are sent."""
    names = {getattr(STATEMENTS, field.name): field.name for field in fields(STATEMENTS)}
    asked: list[Asked] = []
    execute = psycopg.AsyncCursor.execute

    async def record(cursor: Any, query: Any, arguments: Any = None, **how: Any) -> Any:
        if query in names:
            asked.append(Asked(names[query], query, arguments or {}))
        return await execute(cursor, query, arguments, **how)

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.AsyncCursor, "execute", record)
        yield asked


async def ask(history: History, read: PageRead, monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """What a gateway asks that knows nothing yet; a position that is gone is told so."""
    async with open_provider(history.shop.dsn, QUIET) as provider:
        feed = await provider.open_feed(history.shop.feed.address)
        with recorded(monkeypatch) as asked:
            if read.start == After(history.dropped):
                with pytest.raises(CheckpointExpired):
                    await provider.read_page(feed, read)
            else:
                assert (await provider.read_page(feed, read)).changes
        return asked


async def buffers(history: History, asked: list[Asked]) -> dict[str, int]:
    """Most buffers that each statement reads with the plan of a gateway's session."""
    connections = Connections(history.shop.dsn)
    await connections.open()
    read: dict[str, int] = {}

    async def work(connection: Connection) -> None:
        for name, text, arguments in asked:
            plan = await explain(connection, text, arguments)
            check(plan, name)
            read[name] = max(read.get(name, 0), plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    try:
        await connections.run(work)
    finally:
        await connections.aclose()
    return read


async def explain(connection: Connection, statement: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Its prepared plan as it ran, without what a first execution reads of the catalogue."""
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
    text = re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", statement)
    values = sql.SQL("({})").format(sql.SQL(", ").join(sql.Literal(arguments[name]) for name in names))
    await connection.execute(b"PREPARE probe AS " + text.encode())
    execute = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE probe {}").format(
        values if names else sql.SQL("")
    )
    await connection.execute(execute)
    cursor = await connection.execute(execute)
    [([found],)] = await cursor.fetchall()
    await connection.execute("DEALLOCATE probe")
    plan: dict[str, Any] = found["Plan"]
    return plan


def check(plan: dict[str, Any], name: str) -> None:
    """No day is read whole."""
    assert not (plan["Node Type"] == "Seq Scan" and DAY_TABLE.match(plan["Relation Name"])), (name, plan)
    for part in plan.get("Plans", []):
        check(part, name)


# --- The law


EVERYWHERE = {"tick", "ticks_between", "history", "partitions"}
PAGES = {
    "everything": {"page"},
    "many": {"page_of_buckets"},
    "few": {"range_of_few_buckets", "page_of_few_buckets"},
    "a key": {"range_of_key", "page_of_key"},
    "a rare key": {"range_of_key", "page_of_key"},
}


async def compare(
    histories: list[History], reads: Callable[[History], PageRead], patch: pytest.MonkeyPatch
) -> set[str]:
    """Hold that a read costs no more in the long log than in the short one; answers what it asks there."""
    asked = [await ask(history, reads(history), patch) for history in histories]
    short, long = [await buffers(history, found) for history, found in zip(histories, asked, strict=True)]
    assert len(asked[1]) <= len(asked[0]) + 1
    for name in long:
        # An index may be a level deeper, and the short log end before a page, or a block of ticks. What only the long
        # log is asked is no larger question than the others.
        assert long[name] <= 3 * short.get(name, sum(short.values())), (name, short, long)
    return set(long)


@pytest.mark.parametrize("position", ["anywhere", "amid_open", "before_large", "amid_large"])
@pytest.mark.parametrize("scope", list(PAGES))
async def test_a_resume_reads_no_more_of_a_long_log(
    histories: list[History], position: str, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(history: History) -> PageRead:
        scopes: dict[str, Scope] = {
            "everything": EntireCollection(),
            "many": history.many,
            "few": history.few,
            "a key": LogicalPartition("1"),
            "a rare key": LogicalPartition("rare"),
        }
        return page_read(After(getattr(history, position)), scope=scopes[scope], size=PAGE)

    assert await compare(histories, read, monkeypatch) >= EVERYWHERE | PAGES[scope]


async def test_a_position_that_was_dropped_is_told_so_without_a_search(
    histories: list[History], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = await compare(histories, lambda history: page_read(After(history.dropped)), monkeypatch)
    assert asked == {"tick", "ticks_between", "history", "oldest_tick"}


async def test_the_beginning_is_not_searched_for(histories: list[History], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = await compare(histories, lambda _: page_read(Beginning(), size=PAGE), monkeypatch)
    assert asked >= EVERYWHERE | {"oldest_tick", "page"}


async def test_a_time_is_not_searched_for(histories: list[History], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = await compare(histories, lambda history: page_read(AtTime(history.late), size=PAGE), monkeypatch)
    assert asked >= EVERYWHERE | {"tick_at", "page"}
