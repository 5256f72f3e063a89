"""Snapshots of watched tables and of documents, and what may happen to a table in the middle of one."""

from collections.abc import AsyncIterator, Sequence

import psycopg
import pytest
from psycopg import sql

from changefeed_gateway.core.errors import HistoryGap, InvalidRequest, NotFound, UnsupportedCapability
from changefeed_gateway.core.model import (
    After,
    CapabilityName,
    Change,
    ChangeType,
    Cursor,
    Feed,
    ItemState,
    LogicalPartition,
    PartitionId,
    PhysicalPartition,
    Snapshot,
    Start,
)
from changefeed_gateway.providers.postgres.provider import PostgresProvider
from tests.postgres.conftest import Connection
from tests.postgres.reading import address, open_provider, page_read
from tests.postgres.roles import login

pytestmark = pytest.mark.req("CF-12")

THINGS = "public.things"


@pytest.fixture
async def connection(log_database: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def provider(log_database: str) -> AsyncIterator[PostgresProvider]:
    async with open_provider(log_database) as provider:
        yield provider


async def script(connection: Connection, text: str) -> None:
    await connection.execute(text.encode())


class Reader:
    """Follows a collection from a snapshot, a page at a time."""

    def __init__(self, provider: PostgresProvider, collection: str = THINGS, *, size: int = 3) -> None:
        self._provider, self._collection, self._size = provider, collection, size
        self.start: Start = Snapshot()
        self.changes: list[Change] = []
        self.finished = False
        self.more = True
        self.estimate: int | None = None
        self.calls = 0
        """Questions to the database that the last page took."""

    async def feed(self) -> Feed:
        return await self._provider.open_feed(address(self._collection))

    async def page(self) -> Sequence[Change]:
        """The next page."""
        page = await self._provider.read_page(await self.feed(), page_read(self.start, size=self._size))
        self.start = After(page.cursor)
        self.changes += page.changes
        self.more = page.more_available
        self.calls = page.provider_calls
        if page.snapshot is not None:
            self.finished, self.estimate = page.snapshot.finished, page.snapshot.estimate
        return page.changes

    async def to_the_end(self) -> list[Change]:
        """All pages up to the one that finishes."""
        while not self.finished:
            await self.page()
        return self.changes

    async def drain(self) -> None:
        """All pages that there are."""
        while self.more:
            await self.page()


def text(change: Change) -> str:
    return ",".join(component.value for component in change.key.components)


def kinds(changes: Sequence[Change]) -> list[tuple[str, str]]:
    return [(change.change_type.value, text(change)) for change in changes]


async def numbered(connection: Connection, count: int = 9) -> None:
    await script(
        connection,
        "create table things (id bigint primary key, note text);"
        f"insert into things select i, 'n' || i from generate_series(1, {count}) i;"
        "select changefeed.watch('things');",
    )


KEYS = {
    "bigint": ["-5", "3", "20", "100"],
    "numeric": ["-1.50", "2", "10.0"],
    "text": ["", "B", "[x", '["y"]', "a", "a b", "ä"],
    "char(3)": ["a  ", "b  "],
    '"char"': ["a", "b"],
    "uuid": ["00000000-0000-0000-0000-000000000001", "f0000000-0000-0000-0000-000000000000"],
    "bytea": ["", "\\x00ff", "\\x" + "ab" * 100],
    "timestamptz": ["2026-01-01 00:00:00.000001+00", "2026-06-01 12:00:00+02"],
    "timestamp": ["infinity", "2026-01-01 00:00:00"],
    "date": ["0044-03-15 BC", "2026-01-01"],
    "interval": ["1 day", "1 mon", "-01:00:00"],
    "float8": ["-0.1", "1e-300", "NaN", "0.30000000000000004"],
    "boolean": ["f", "t"],
    "inet": ["10.0.0.1", "10.0.0.0/8"],
    "int[]": ["{1,2}", "{1,10}"],
    "oid": ["5", "4000000000"],
    "color": ["blue", "[x", "red", "Z"],
}
ENUM = "create type color as enum ('red', 'Z', '[x', 'blue')"


@pytest.mark.parametrize("composite", [False, True])
async def test_every_type_of_key_is_paged_in_the_order_of_its_index_and_finds_its_changes(
    connection: Connection, provider: PostgresProvider, composite: bool
) -> None:
    await script(connection, ENUM)
    for number, (kind, values) in enumerate(KEYS.items()):
        table = f"things_{number}"
        other = ", other text default '[z'" if composite else ""
        await script(
            connection, f"create table {table} (k {kind}{other}, n int, primary key (k{', other' * composite}))"
        )
        await connection.execute("select changefeed.watch(%s)", (table,))
        insert = sql.SQL(f"insert into {table} (k, n) values (%s::{kind}, %s)")
        for n, value in enumerate(values):
            await connection.execute(insert, (value, n))
        reader = Reader(provider, f"public.{table}", size=1)
        for step in range(4):
            await reader.page()
            await script(connection, f"update {table} set n = n + 100 where n % 2 = {step % 2}")
        await reader.drain()
        read = [change for change in reader.changes if change.change_type is ChangeType.SNAPSHOT]
        ordered = await (await connection.execute(f"select n from {table} order by k".encode())).fetchall()
        numbers = [int(str(change.item).rpartition(":")[2][:-1]) for change in read]
        assert [n % 100 for n in numbers] == [n % 100 for (n,) in ordered], kind
        last = {text(change): change.item for change in reader.changes}
        images = await (await connection.execute(f"select row_to_json(t.*)::text from {table} t".encode())).fetchall()
        assert sorted(last.values(), key=str) == sorted(image for (image,) in images), kind


@pytest.mark.parametrize("collation", ["C", "default"])
async def test_texts_are_ordered_by_the_collation_of_the_index(
    connection: Connection, provider: PostgresProvider, collation: str
) -> None:
    names = ["a", "B", "c", "a-b", "a b", "ab", "Ä", "z", "_"]
    await connection.execute(f'create table things (name text collate "{collation}" primary key)'.encode())
    await connection.execute("insert into things select unnest(%s::text[])", (names,))
    await connection.execute("select changefeed.watch('things')")
    reader = Reader(provider, size=2)
    await reader.page()
    (last,) = reader.changes[-1].key.components
    earlier = await (await connection.execute("select name from things where name < %s", (last.value,))).fetchall()
    await connection.execute("update things set name = name || '!' where name < %s", (last.value,))
    changes = await reader.to_the_end()
    assert {text(change) for change in changes if change.change_type is ChangeType.DELETE} == {n for (n,) in earlier}
    held: set[str] = set()
    for change in changes:
        (held.discard if change.change_type is ChangeType.DELETE else held.add)(text(change))
    rows = await (await connection.execute("select name from things")).fetchall()
    assert held == {name for (name,) in rows}


async def test_a_row_that_gets_another_key_is_neither_lost_nor_kept(
    connection: Connection, provider: PostgresProvider
) -> None:
    await numbered(connection)
    reader = Reader(provider)
    await reader.page()
    await script(connection, "update things set id = 50 where id = 1; update things set id = -1 where id = 9")
    changes = await reader.to_the_end()
    assert ("delete", "1") in kinds(changes)
    assert ("create", "-1") in kinds(changes)
    assert ("snapshot", "50") in kinds(changes)
    assert ("snapshot", "9") not in kinds(changes)


async def test_a_truncation_in_the_middle_empties_what_came_and_nothing_that_comes(
    connection: Connection, provider: PostgresProvider
) -> None:
    await numbered(connection)
    reader = Reader(provider)
    await reader.page()
    await script(connection, "begin; truncate things; insert into things values (2, 'new'), (8, 'new'); commit")
    changes = (await reader.to_the_end())[3:]
    assert kinds(changes) == [("truncate", ""), ("create", "2"), ("snapshot", "8")]


async def test_where_nothing_is_written_a_page_asks_for_its_items_alone(
    connection: Connection, provider: PostgresProvider
) -> None:
    await numbered(connection)
    reader = Reader(provider)
    await reader.page()
    await reader.page()
    assert reader.calls == 1
    await script(connection, "update things set note = 'new'")
    await reader.page()
    assert reader.calls > 1
    assert kinds(reader.changes[6:])[:3] == [("snapshot", "7"), ("snapshot", "8"), ("snapshot", "9")]


async def test_what_was_under_way_when_a_tick_was_made_comes_once(
    connection: Connection, provider: PostgresProvider, log_database: str
) -> None:
    await numbered(connection)
    reader = Reader(provider)
    async with await psycopg.AsyncConnection.connect(log_database) as other:
        await script(other, "update things set note = 'new' where id in (1, 5)")
        await reader.page()
        await other.commit()
    await reader.page()
    await reader.drain()
    assert kinds(reader.changes) == [
        *(("snapshot", str(n)) for n in range(1, 7)),
        ("update", "1"),
        *(("snapshot", str(n)) for n in range(7, 10)),
    ]
    assert reader.changes[4].item == '{"id":5,"note":"new"}', "as the items saw it, and never again"


async def test_whoever_takes_one_event_of_each_page_comes_to_the_end(
    connection: Connection, provider: PostgresProvider
) -> None:
    await numbered(connection)
    reader = Reader(provider)
    await reader.page()
    held = {text(change) for change in reader.changes}
    # Of keys that are not read yet: they come before the items, for an earlier try may have brought them.
    await script(
        connection, "delete from things where id = 7; delete from things where id > 7; delete from things where id = 2"
    )
    for _ in range(20):
        page = await provider.read_page(await reader.feed(), page_read(reader.start, size=10))
        if page.snapshot is not None and page.snapshot.finished:
            break
        if page.changes:
            change = page.changes[0]
            (held.discard if change.change_type is ChangeType.DELETE else held.add)(text(change))
        reader.start = After(page.cursors[0] if page.changes else page.cursor)
    else:
        pytest.fail("the same events again and again")
    assert held == {"1", "3", "4", "5", "6"}


async def test_a_column_that_is_added_or_dropped_meanwhile_is_in_the_rows_that_follow(
    connection: Connection, provider: PostgresProvider
) -> None:
    await numbered(connection)
    reader = Reader(provider)
    assert (await reader.page())[0].item == '{"id":1,"note":"n1"}'
    await script(connection, "alter table things add column more int default 7")
    assert (await reader.page())[0].item == '{"id":4,"note":"n4","more":7}'
    await script(connection, "alter table things drop column note; alter table things rename column more to less")
    assert (await reader.page())[0].item == '{"id":7,"less":7}'
    await reader.to_the_end()
    assert len(reader.changes) == 9


async def test_a_key_column_that_grows_keeps_the_snapshot(connection: Connection, provider: PostgresProvider) -> None:
    await script(
        connection,
        "create table things (id int primary key); insert into things select generate_series(1, 9);"
        "select changefeed.watch('things', always => true)",
    )
    reader = Reader(provider)
    await reader.page()
    await script(
        connection,
        "alter table things alter column id type bigint; insert into things values (5000000000); delete from things"
        " where id = 1",
    )
    changes = await reader.to_the_end()
    assert ("snapshot", "5000000000") in kinds(changes)
    assert ("delete", "1") in kinds(changes)
    assert len(changes) == 11


@pytest.mark.parametrize(
    "change",
    [
        "alter table things drop constraint things_pkey",
        "drop trigger changefeed_1_rekey on things; alter table things alter column id type text",
        "alter table things disable trigger user",
        "drop table things; create table things (id bigint primary key); insert into things values (99)",
    ],
)
async def test_a_table_that_is_not_captured_any_more_ends_the_snapshot_loudly(
    connection: Connection, provider: PostgresProvider, change: str
) -> None:
    await numbered(connection)
    reader = Reader(provider)
    await reader.page()
    await script(connection, change)
    with pytest.raises(HistoryGap):
        await reader.to_the_end()
    assert {change.change_type for change in reader.changes} == {ChangeType.SNAPSHOT}
    assert "99" not in {text(change) for change in reader.changes}


async def test_a_table_that_was_watched_anew_is_another_collection(
    connection: Connection, provider: PostgresProvider
) -> None:
    await numbered(connection)
    reader = Reader(provider)
    feed = await reader.feed()
    await reader.page()
    await script(connection, "select changefeed.unwatch('things'); select changefeed.watch('things')")
    with pytest.raises(NotFound):
        await provider.read_page(feed, page_read(reader.start))
    assert len(await Reader(provider).to_the_end()) == 9


async def test_a_partitioned_table_has_snapshots_of_all_its_partitions(
    connection: Connection, provider: PostgresProvider
) -> None:
    await script(
        connection,
        "create table things (id bigint primary key, note text) partition by hash (id);"
        "create table things_0 partition of things for values with (modulus 2, remainder 0);"
        "create table things_1 partition of things for values with (modulus 2, remainder 1);"
        "insert into things select i, 'n' from generate_series(1, 9) i; select changefeed.watch('things')",
    )
    reader = Reader(provider)
    await reader.page()
    await script(
        connection,
        "insert into things_0 select i, 'x' from generate_series(-9, -1) i where"
        " satisfies_hash_partition('things'::regclass, 2, 0, i::bigint)",
    )
    changes = await reader.to_the_end()
    read = [text(change) for change in changes if change.change_type is ChangeType.SNAPSHOT]
    assert read == [str(n) for n in range(1, 10)]
    assert {change.change_type for change in changes} == {ChangeType.SNAPSHOT, ChangeType.CREATE}


async def test_items_that_are_large_left_out_or_not_captured_say_so(
    connection: Connection, provider: PostgresProvider
) -> None:
    await numbered(connection, 3)
    await connection.execute("update things set note = repeat('x', 5000) where id = 2")
    feed = await Reader(provider).feed()
    page = await provider.read_page(feed, page_read(Snapshot(), max_item_bytes=1_000))
    assert [change.item_state for change in page.changes] == [
        ItemState.INCLUDED,
        ItemState.TOO_LARGE,
        ItemState.INCLUDED,
    ]
    page = await provider.read_page(feed, page_read(Snapshot(), max_bytes=1_000))
    assert len(page.changes) == 1, "the second does not fit"
    rest = await provider.read_page(feed, page_read(After(page.cursor), max_bytes=6_000))
    assert [text(change) for change in rest.changes] == ["2", "3"]
    page = await provider.read_page(feed, page_read(Snapshot(), items=False))
    assert {(change.item_state, change.item) for change in page.changes} == {(ItemState.OMITTED, None)}
    await script(
        connection,
        "create table bare (id int primary key); insert into bare values (1);"
        "select changefeed.watch('bare', image => 'none')",
    )
    (change,) = await Reader(provider, "public.bare").page()
    assert change.item_state is ItemState.UNAVAILABLE
    assert change.item is None


async def test_a_logical_partition_has_its_own_items_and_changes(
    connection: Connection, provider: PostgresProvider
) -> None:
    await script(
        connection,
        "create table things (id bigint primary key, space text not null);"
        "insert into things select i, 's' || i % 3 from generate_series(1, 30) i;"
        "select changefeed.watch('things', partition_key => '{space}'); analyze things",
    )
    feed = await Reader(provider).feed()
    start: Start = Snapshot()
    seen: list[tuple[str, str]] = []
    for step in range(40):
        page = await provider.read_page(feed, page_read(start, scope=LogicalPartition("s1"), size=5))
        start = After(page.cursor)
        seen += kinds(page.changes)
        if step == 1:
            await script(
                connection,
                "update things set space = 's0' where id in (1, 28);update things set space = 's1' where id in (3, 30)",
            )
        if page.snapshot is not None and page.snapshot.finished:
            assert page.snapshot.items == sum(kind == "snapshot" for kind, _ in seen)
            break
    assert page.snapshot is not None
    assert page.snapshot.estimate is None, "nobody has counted those of one partition"
    assert {key for kind, key in seen if kind == "snapshot"} == {
        *(str(i) for i in range(1, 31) if i % 3 == 1 and i != 28),
        "30",
    }
    assert ("delete", "1") in seen
    assert ("create", "3") in seen


async def test_a_physical_partition_has_none_and_says_why(connection: Connection, provider: PostgresProvider) -> None:
    await numbered(connection)
    feed = await Reader(provider).feed()
    assert feed.supports(CapabilityName.SNAPSHOT)
    assert not feed.supports(CapabilityName.SNAPSHOT_PHYSICAL_PARTITION_SCOPE)
    with pytest.raises(UnsupportedCapability):
        await provider.read_page(feed, page_read(Snapshot(), scope=PhysicalPartition(PartitionId("0-4095"))))


@pytest.mark.parametrize(
    ("columns", "key"),
    [
        ("id text not null, unique (id) include (note)", True),
        ("id int not null", False),
        ("id color primary key", True),
        ("id hue primary key", False),
        ("id shade primary key", False),
        ("id pair primary key", False),
        ("id color[] primary key", False),
    ],
)
async def test_a_key_without_an_order_of_postgresqls_own_has_no_snapshots(
    connection: Connection, provider: PostgresProvider, columns: str, key: bool
) -> None:
    await script(
        connection,
        "create type color as enum ('red', 'blue'); create type hue as enum ('red', 'blue');"
        "create cast (hue as text) with inout as implicit; create type pair as (a int, b int);"
        "create domain shade as color;"
        f"create table things (note int, {columns}); create unique index on things (id desc);"
        "select changefeed.watch('things', key => '{id}')",
    )
    feed = await Reader(provider).feed()
    assert feed.supports(CapabilityName.SNAPSHOT) is key
    if not key:
        with pytest.raises(UnsupportedCapability):
            await Reader(provider).page()


COLORED = (
    "create type color as enum ('red', 'green', 'blue');"
    "create table things (id color, n int, primary key (id, n));"
    "insert into things select c, n from unnest(enum_range(null::color)) c, generate_series(1, 2) n;"
    "select changefeed.watch('things')"
)


async def test_values_that_an_enum_gets_meanwhile_keep_their_place(
    connection: Connection, provider: PostgresProvider
) -> None:
    await script(connection, COLORED)
    reader = Reader(provider)
    await reader.page()
    for value in ("'white' before 'red'", "'black' after 'blue'", "'grey' before 'blue'"):
        await script(connection, f"alter type color add value {value}")
    await script(connection, "insert into things values ('white', 1), ('black', 1), ('grey', 1)")
    changes = (await reader.to_the_end())[3:]
    read = [key for kind, key in kinds(changes) if kind == "snapshot"]
    assert read == ["green,2", "grey,1", "blue,1", "blue,2", "black,1"]
    assert ("create", "white,1") in kinds(changes)


@pytest.mark.parametrize("change", ["", "update things set n = n + 10 where id = 'blue'"])
async def test_a_value_of_a_key_that_gets_another_name_ends_the_snapshot_loudly(
    connection: Connection, provider: PostgresProvider, change: str
) -> None:
    await script(connection, COLORED)
    reader = Reader(provider)
    await reader.page()
    await script(connection, f"alter type color rename value 'green' to 'lime'; {change}")
    with pytest.raises(HistoryGap, match="another name"):
        await reader.to_the_end()


async def test_a_cast_that_the_owner_of_a_key_s_type_made_is_not_called(
    connection: Connection, provider: PostgresProvider
) -> None:
    await script(
        connection,
        COLORED + ";create function lie(text) returns color language plpgsql as $$ begin raise 'called'; end $$;"
        "create cast (text as color) with function lie(text) as implicit;"
        "create function tell(color) returns text language plpgsql as $$ begin raise 'called'; end $$;"
        "create cast (color as text) with function tell(color) as assignment",
    )
    reader = Reader(provider)
    await reader.page()
    await script(connection, "update things set n = n + 10")
    changes = await reader.to_the_end()
    assert {text(change) for change in changes[-3:]} == {"green,12", "blue,11", "blue,12"}


async def test_a_gateway_that_may_only_read_feeds_reads_snapshots_and_nobody_else_does(
    connection: Connection, log_database: str
) -> None:
    await numbered(connection)
    async with login(log_database, "snapshot_reader", "changefeed_reader") as dsn, open_provider(dsn) as provider:
        assert len(await Reader(provider).to_the_end()) == 9
    async with (
        login(log_database, "snapshot_stranger") as dsn,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as stranger,
    ):
        await connection.execute("grant usage on schema changefeed_log to public")
        for call in ("items_1(null, 5, 100, 100, null, false)", "places_1('{1}', null, null)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="function"):
                await stranger.execute(f"select changefeed_log.{call}".encode())


async def test_what_a_feed_has_for_snapshots_goes_with_it(connection: Connection) -> None:
    await numbered(connection)
    await connection.execute("select changefeed.unwatch('things')")
    left = await connection.execute("select proname from pg_proc where pronamespace = 'changefeed_log'::regnamespace")
    assert await left.fetchall() == []


async def test_the_estimate_is_the_planners(connection: Connection, provider: PostgresProvider) -> None:
    await numbered(connection)
    reader = Reader(provider)
    await reader.page()
    assert reader.estimate is None, "nobody has counted"
    await connection.execute("analyze things")
    reader = Reader(provider)
    await reader.page()
    assert reader.estimate == 9


@pytest.mark.parametrize("keys", [("1", "10", "2800"), ('["red","1"]', '["red","10"]', '["blue","2800"]')])
async def test_a_page_costs_the_same_wherever_it_is(connection: Connection, keys: tuple[str, str, str]) -> None:
    if keys[0].startswith("["):
        await script(
            connection,
            ENUM + ";create table things (id color, n bigint, note text, primary key (id, n));"
            "insert into things select c, i, 'n' from unnest(enum_range(null::color)) c, generate_series(1, 3000) i;"
            "select changefeed.watch('things')",
        )
    else:
        await numbered(connection, 3_000)
    # As the gateway's sessions are.
    for setting in ("enable_seqscan", "enable_bitmapscan"):
        await connection.execute("select set_config(%s, 'off', false)", (setting,))
    await connection.execute("set plan_cache_mode = force_generic_plan")

    async def blocks(after: str) -> int:
        call = f"select * from changefeed_log.items_1('{after}', 100, 1000000, 1000000, null, false)"
        answer = await connection.execute(f"explain (analyze, buffers, format json) {call}".encode())
        (([plan],),) = await answer.fetchall()
        return int(plan["Plan"]["Shared Hit Blocks"])

    first, early, late = keys
    await blocks(first)
    assert await blocks(late) <= await blocks(early) + 5


@pytest.mark.parametrize("body", [b"\xff", b"\xff[]", b"\xff" + b'[1, 0, 5, "k", false, ["a", "1:2"], 0, null]'])
async def test_what_is_no_place_is_refused(connection: Connection, provider: PostgresProvider, body: bytes) -> None:
    await numbered(connection)
    with pytest.raises(InvalidRequest):
        await provider.read_page(await Reader(provider).feed(), page_read(After(Cursor(body))))


async def test_documents_come_as_they_are_and_deleted_ones_do_not(database: str) -> None:
    async with (
        await psycopg.AsyncConnection.connect(database, autocommit=True) as sql_connection,
        open_provider(database) as provider,
    ):
        ((workspace,),) = await (
            await sql_connection.execute("insert into documents.workspaces (name) values ('w') returning id")
        ).fetchall()
        for number in range(12):
            await sql_connection.execute(
                "insert into documents.files (workspace_id, title, kind, deleted_at) values (%s, %s, %s, %s)",
                (workspace, f"t{number}", "document" if number % 4 else "folder", "now" if number % 4 == 3 else None),
            )
        reader = Reader(provider, "documents", size=2)
        await reader.page()
        await sql_connection.execute("update documents.files set title = title || '!' where kind = 'document'")
        await sql_connection.execute("update documents.files set deleted_at = now() where title like 't1!'")
        held: dict[str, str] = {}
        for change in await reader.to_the_end():
            if change.change_type is ChangeType.DELETE or change.item is None:
                held.pop(text(change), None)
            else:
                held[text(change)] = change.item
        rows = await sql_connection.execute(
            "select key, image from documents.documents_image(array(select id::text from documents.files))"
        )
        assert held == dict(await rows.fetchall())
        assert len(held) == 5
