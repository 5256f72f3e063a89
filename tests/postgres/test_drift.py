"""What becomes of a feed when its table is altered: it follows, or it stops and says so. No write ever fails."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from tempfile import TemporaryDirectory

import psycopg
import pytest
from psycopg import errors

from changefeed_gateway.core.errors import HistoryGap
from changefeed_gateway.core.model import After, Beginning, LogicalPartition, Now, PartitionId, PhysicalPartition, Scope
from changefeed_gateway.providers.postgres.provider import PostgresOptions
from tests.databases import PostgresForTests
from tests.postgres.conftest import Connection
from tests.postgres.reading import WHOLE, address, open_provider, page_read
from tests.postgres.test_watch import rows, watch

ORDERS = "CREATE TABLE orders (id int PRIMARY KEY, customer text NOT NULL, note text, amount int)"
CHANGE = "op, created, partition_key, key, image"


@pytest.fixture
async def connection(log_database: str) -> AsyncIterator[Connection]:
    """A session with plans of its own: each test writes before the table is altered and after."""
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection:
        await connection.execute(ORDERS)
        yield connection


@pytest.fixture(params=["statement", "row"])
def once(request: pytest.FixtureRequest) -> str:
    """Options that make triggers fire once a statement, or once a row."""
    return "" if request.param == "statement" else ", always => true"


async def write(connection: Connection, *statements: str) -> None:
    for statement in statements:
        await connection.execute(statement.encode())


async def one(connection: Connection, query: str) -> object:
    row = await (await connection.execute(query.encode())).fetchone()
    assert row is not None
    return row[0]


async def state(connection: Connection) -> tuple[object, ...]:
    query = "SELECT state, problem FROM changefeed.feed_states()"
    row = await (await connection.execute(query)).fetchone()
    assert row is not None
    return row


async def adopted(connection: Connection) -> None:
    """Capture is written anew, by the look that the gateway takes from time to time."""
    await connection.execute("SELECT changefeed.check_feeds()")
    assert await state(connection) == ("capturing", None)


async def images(connection: Connection, feed: int) -> list[object]:
    return [image for (image,) in await rows(connection, feed, "image::jsonb")]


async def test_an_added_column_comes_with_the_next_image(connection: Connection, once: str) -> None:
    feed = await watch(connection, "'orders', key => '{id}'" + once)
    await write(connection, "SET timezone = 'Asia/Tokyo'", "INSERT INTO orders VALUES (1, 'c')")
    await write(connection, "ALTER TABLE orders ADD at timestamptz DEFAULT '2026-01-02T03:04:05Z'")
    await write(connection, "INSERT INTO orders VALUES (2, 'c')", "UPDATE orders SET note = 'n' WHERE id = 1")
    await adopted(connection)
    await write(connection, "UPDATE orders SET note = 'm' WHERE id = 1", "DELETE FROM orders WHERE id = 2")
    at = "2026-01-02T03:04:05+00:00"
    assert await images(connection, feed) == [
        {"id": 1, "customer": "c", "note": None, "amount": None},
        {"id": 2, "customer": "c", "note": None, "amount": None, "at": at},
        {"id": 1, "customer": "c", "note": "n", "amount": None, "at": at},
        {"id": 1, "customer": "c", "note": "m", "amount": None, "at": at},
        None,
    ]
    assert await one(connection, "SHOW timezone") == "Asia/Tokyo"


async def test_a_dropped_column_leaves_the_image(connection: Connection, once: str) -> None:
    feed = await watch(connection, "'orders', partition_key => '{customer}'" + once)
    await write(connection, "INSERT INTO orders VALUES (1, 'c')", "ALTER TABLE orders DROP note")
    await write(connection, "UPDATE orders SET amount = 5", "UPDATE orders SET id = 2")
    await adopted(connection)
    await write(connection, "DELETE FROM orders")
    assert (await rows(connection, feed, CHANGE))[1:] == [
        ("upsert", False, "c", "1", '{"id":1,"customer":"c","amount":5}'),
        ("delete", False, "c", "1", None),
        ("upsert", True, "c", "2", '{"id":2,"customer":"c","amount":5}'),
        ("delete", False, "c", "2", None),
    ]


async def test_a_dropped_or_renamed_column_of_a_listed_image(connection: Connection, once: str) -> None:
    feed = await watch(connection, "'orders', image_columns => '{note,amount}'" + once)
    await write(connection, "INSERT INTO orders VALUES (1, 'c', 'n', 5)")
    await write(connection, "ALTER TABLE orders DROP amount", "ALTER TABLE orders RENAME note TO remark")
    await write(connection, "UPDATE orders SET customer = 'd'")
    await adopted(connection)
    await write(connection, "UPDATE orders SET customer = 'e'", "ALTER TABLE orders DROP remark")
    await write(connection, "UPDATE orders SET customer = 'f'")
    await adopted(connection)
    await write(connection, "UPDATE orders SET customer = 'g'")
    expected = [{"note": "n", "amount": 5}, {"remark": "n"}, {"remark": "n"}, {}, {}]
    assert await images(connection, feed) == expected


async def test_renamed_columns_of_key_and_partition_key(connection: Connection, once: str) -> None:
    feed = await watch(connection, "'orders', partition_key => '{customer}'" + once)
    await write(connection, "INSERT INTO orders VALUES (1, 'c')", "UPDATE orders SET note = 'n'")
    await write(connection, "ALTER TABLE orders RENAME id TO number", "ALTER TABLE orders RENAME customer TO client")
    await write(connection, "UPDATE orders SET note = 'm' WHERE false", "DELETE FROM orders WHERE false")
    await write(connection, "UPDATE orders SET note = 'm'", "UPDATE orders SET number = 2")
    assert await state(connection) == ("drifted", "the table was altered: capture follows more slowly")
    await adopted(connection)
    await write(connection, "UPDATE orders SET client = 'd'", "DELETE FROM orders")
    assert [row[:4] for row in await rows(connection, feed, CHANGE)][2:] == [
        ("upsert", False, "c", "1"),
        ("delete", False, "c", "1"),
        ("upsert", True, "c", "2"),
        ("delete", False, "c", "2"),
        ("upsert", True, "d", "2"),
        ("delete", False, "d", "2"),
    ]
    assert await one(connection, "SELECT key_columns FROM changefeed.feeds") == ["id"]


async def test_a_retyped_column(connection: Connection, once: str) -> None:
    feed = await watch(connection, "'orders'" + once)
    await write(connection, "SET datestyle = 'German'", "INSERT INTO orders VALUES (1, 'c', '1.2.2026', 5)")
    await write(connection, "ALTER TABLE orders ALTER note TYPE date USING note::date")
    await write(connection, "ALTER TABLE orders ALTER amount TYPE bytea USING 'x'", "SET bytea_output = 'escape'")
    await write(connection, "UPDATE orders SET customer = 'd'")
    await adopted(connection)
    await write(connection, "UPDATE orders SET customer = 'e'")
    assert [(image["note"], image["amount"]) for image in await images(connection, feed)] == [  # type: ignore[index]
        ("1.2.2026", 5),
        ("2026-02-01", "\\x78"),
        ("2026-02-01", "\\x78"),
    ]


async def test_a_retyped_key_keeps_its_texts(connection: Connection, once: str) -> None:
    feed = await watch(connection, "'orders'" + once)
    await write(connection, "INSERT INTO orders VALUES (1, 'c')")
    retype = "ALTER TABLE orders ALTER id TYPE bigint"
    if not once:
        with pytest.raises(errors.FeatureNotSupported) as refusal:
            await write(connection, retype)
        assert "changefeed_1_rekey" in str(refusal.value.diag.message_detail)
        retype = f"DROP TRIGGER changefeed_1_rekey ON orders; {retype}"
    await write(connection, retype)
    await write(connection, "UPDATE orders SET note = 'n'", "UPDATE orders SET id = 5000000000")
    assert await watch(connection, "'orders'" + once) == feed
    await write(connection, "UPDATE orders SET id = 5000000001")
    assert [row[:4] for row in await rows(connection, feed, CHANGE)][1:] == [
        ("upsert", False, "1", "1"),
        ("delete", False, "1", "1"),
        ("upsert", True, "5000000000", "5000000000"),
        ("delete", False, "5000000000", "5000000000"),
        ("upsert", True, "5000000001", "5000000001"),
    ]
    assert await state(connection) == ("capturing", None)


async def test_a_renamed_and_moved_table(connection: Connection, once: str) -> None:
    feed = await watch(connection, "'orders'" + once)
    await write(connection, "INSERT INTO orders VALUES (1, 'c')", "CREATE SCHEMA shop")
    await write(connection, "ALTER TABLE orders RENAME TO sales", "ALTER TABLE sales SET SCHEMA shop")
    await write(connection, "UPDATE shop.sales SET id = 2", ORDERS, "INSERT INTO orders VALUES (9, 'other')")
    await connection.execute("SELECT changefeed.check_feeds()")
    assert await state(connection) == ("drifted", "capture may not read the table")
    await write(connection, "GRANT USAGE ON SCHEMA shop TO changefeed_capture")
    await adopted(connection)
    await write(connection, "DELETE FROM shop.sales")
    assert await rows(connection, feed, "op, key") == [
        ("upsert", "1"),
        ("delete", "1"),
        ("upsert", "2"),
        ("delete", "2"),
    ]
    with pytest.raises(errors.DuplicateObject, match="another table of that name"):
        await watch(connection)


async def test_a_drift_within_a_transaction_of_nested_statements(connection: Connection, once: str) -> None:
    await write(
        connection,
        "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN UPDATE orders SET note = ''last'' WHERE note = ''first''; RETURN NULL; END'",
        "CREATE TRIGGER again AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION again()",
    )
    feed = await watch(connection, "'orders'" + once)
    async with connection.transaction():
        await write(connection, "INSERT INTO orders VALUES (1, 'c', 'first')", "ALTER TABLE orders RENAME id TO number")
        await write(
            connection, "INSERT INTO orders VALUES (2, 'c', 'first')", "UPDATE orders SET number = 3 - number + 1"
        )
    last = {key: (op, note) for key, op, note in await rows(connection, feed, "key, op, image::json ->> 'note'")}
    assert last == {"1": ("delete", None), "2": ("upsert", "last"), "3": ("upsert", "last")}


async def test_a_drift_that_is_rolled_back_is_none(connection: Connection, once: str) -> None:
    feed = await watch(connection, "'orders'" + once)
    async with connection.transaction(force_rollback=True):
        await write(connection, "ALTER TABLE orders DROP COLUMN id CASCADE", "INSERT INTO orders VALUES ('c')")
    await write(connection, "INSERT INTO orders VALUES (1, 'c')", "UPDATE orders SET id = 2")
    assert await rows(connection, feed, "op, key") == [("upsert", "1"), ("delete", "1"), ("upsert", "2")]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_a_transaction_older_than_the_alteration_is_to_be_tried_again(
    connection: Connection, log_database: str, once: str, level: str
) -> None:
    feed = await watch(connection, "'orders'" + once)
    await write(connection, "INSERT INTO orders VALUES (1, 'c')")
    async with await psycopg.AsyncConnection.connect(log_database) as older:
        await write(older, f"SET TRANSACTION ISOLATION LEVEL {level}", "SELECT 1")
        await write(connection, "ALTER TABLE orders RENAME id TO number")
        with pytest.raises(
            errors.SerializationFailure, match=r"public\.orders was altered after this transaction took"
        ):
            await write(older, "UPDATE orders SET note = 'n'")
        await older.rollback()
        await write(older, f"SET TRANSACTION ISOLATION LEVEL {level}", "UPDATE orders SET note = 'n'")
    assert await rows(connection, feed, "op, key") == [("upsert", "1"), ("upsert", "1")]


@pytest.mark.parametrize("planned", [False, True], ids=["new plans", "plans of before"])
async def test_a_key_is_moved_also_in_a_transaction_older_than_the_trigger_that_moves_it(
    connection: Connection, log_database: str, once: str, planned: bool
) -> None:
    """And after it, in the same session. P1: a copy would keep the old one for ever."""
    feed = await watch(connection, "'orders'" + once)
    await write(
        connection,
        "CREATE FUNCTION moves() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN new.id := new.id + 1; RETURN new; END'",
        "INSERT INTO orders VALUES (1, 'c')",
        *["UPDATE orders SET note = 'n'"] * 8 * planned,
    )
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as owner, connection.transaction():
        await write(connection, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT 1")
        await write(owner, "CREATE TRIGGER moves BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION moves()")
        await write(connection, "UPDATE orders SET note = 'm'")
    await write(connection, "UPDATE orders SET note = 'o'")
    moves = [("delete", "1"), ("upsert", "2"), ("delete", "2"), ("upsert", "3")]
    assert (await rows(connection, feed, "op, key"))[-4:] == moves


async def test_a_key_is_moved_also_by_who_replicates(connection: Connection) -> None:
    """Where updates are told always, and the trigger of keys is not."""
    feed = await watch(connection)
    await write(
        connection,
        "INSERT INTO orders VALUES (1, 'c')",
        "UPDATE orders SET note = 'n'",
        "ALTER TABLE orders ENABLE ALWAYS TRIGGER changefeed_1_update",
        "SET session_replication_role = replica",
        "UPDATE orders SET id = 2",
    )
    assert (await rows(connection, feed, "op, key"))[-2:] == [("delete", "1"), ("upsert", "2")]


STOPS = [
    ("ALTER TABLE orders DROP id CASCADE", "the column id of its key was dropped"),
    ("ALTER TABLE orders DROP customer CASCADE", "the column customer of its key was dropped"),
    (
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey",
        "no unique index that is checked at once is left on its key (id)",
    ),
    (
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id, customer)",
        "no unique index that is checked at once is left on its key (id)",
    ),
    (
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id) DEFERRABLE",
        "no unique index that is checked at once is left on its key (id)",
    ),
    ("ALTER TABLE orders ALTER customer DROP NOT NULL", "the column customer of its key may be null"),
    ("ALTER TABLE orders SET UNLOGGED", "the table became unlogged: a crash empties it without a change"),
    (
        "CREATE TABLE later () INHERITS (orders)",
        "the table takes part in inheritance, where no key is unique",
    ),
    (
        "DROP TRIGGER IF EXISTS changefeed_1_rekey ON orders; ALTER TABLE orders ALTER id TYPE text",
        "the column id of its key became text",
    ),
]


@pytest.mark.parametrize(("alteration", "problem"), STOPS, ids=[problem for _, problem in STOPS])
async def test_what_capture_cannot_follow_stops_the_feed_and_fails_no_write(
    connection: Connection, once: str, alteration: str, problem: str
) -> None:
    feed = await watch(connection, "'orders', partition_key => '{customer}'" + once)
    await write(connection, "INSERT INTO orders (id, customer) VALUES (1, 'c'), (2, 'c')", alteration)
    await write(connection, "UPDATE orders SET note = 'n'", "DELETE FROM orders WHERE note = 'other'")
    await connection.execute("SELECT changefeed.check_feeds(); SELECT changefeed.check_feeds()")
    assert await state(connection) == ("stopped", problem)
    await write(connection, "UPDATE orders SET note = 'm'", "DELETE FROM orders", "TRUNCATE orders")
    changes = await rows(connection, feed, "op, key, image")
    assert ("stopped", "", problem) in changes
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="has stopped, changes are missing") as refusal:
        await watch(connection, "'orders'")
    assert "changefeed.unwatch" in str(refusal.value.diag.message_hint)


async def test_a_key_that_has_become_null_fails_no_write(connection: Connection, once: str) -> None:
    await write(connection, "ALTER TABLE orders ADD UNIQUE (customer, amount), ALTER amount SET NOT NULL")
    feed = await watch(connection, "'orders', key => '{customer,amount}', partition_key => '{customer}'" + once)
    await write(
        connection, "ALTER TABLE orders ALTER customer DROP NOT NULL", "INSERT INTO orders VALUES (1, NULL, 'n', 5)"
    )
    await write(connection, "UPDATE orders SET note = 'm'", "DELETE FROM orders")
    assert {row[0] for row in await rows(connection, feed, "op")} == {"stopped"}


async def test_another_unique_index_on_the_key_is_as_good(connection: Connection, once: str) -> None:
    feed = await watch(connection, "'orders'" + once)
    await write(
        connection,
        "CREATE UNIQUE INDEX newer ON orders (id)",
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey",
        "INSERT INTO orders VALUES (1, 'c')",
        "UPDATE orders SET id = 2",
    )
    await adopted(connection)
    await write(connection, "UPDATE orders SET note = 'n'")
    assert await rows(connection, feed, "op, key") == [
        ("upsert", "1"),
        ("delete", "1"),
        ("upsert", "2"),
        ("upsert", "2"),
    ]


async def test_a_table_that_becomes_a_partition(connection: Connection, once: str) -> None:
    feed = await watch(connection, "'orders'" + once)
    await write(
        connection,
        "CREATE TABLE sales (LIKE orders) PARTITION BY RANGE (id)",
        "ALTER TABLE sales ATTACH PARTITION orders FOR VALUES FROM (0) TO (9)",
        "INSERT INTO sales VALUES (1, 'c')",
        "SELECT changefeed.check_feeds()",
    )
    # Triggers of statements do not see what is written to the whole; those of rows do.
    assert await state(connection) == (
        ("capturing", None) if once else ("stopped", "the table became a partition of public.sales")
    )
    assert [op for (op,) in await rows(connection, feed, "op")] == ["upsert" if once else "stopped"]


async def test_a_generated_column_that_no_trigger_sees(connection: Connection, once: str) -> None:
    if connection.info.server_version < 180000:
        with pytest.raises(errors.SyntaxError):
            await write(connection, "ALTER TABLE orders ADD twice int GENERATED ALWAYS AS (id * 2) VIRTUAL")
        return
    feed = await watch(connection, "'orders'" + once)
    await write(connection, "ALTER TABLE orders ADD twice int GENERATED ALWAYS AS (id * 2) VIRTUAL")
    await connection.execute("SELECT changefeed.check_feeds()")
    await write(connection, "INSERT INTO orders VALUES (1, 'c')")
    assert await images(connection, feed) == [{"id": 1, "customer": "c", "note": None, "amount": None}]
    drifted = ("drifted", "the images leave out the column twice, which is generated when it is read")
    assert await state(connection) == drifted


async def test_a_dropped_table_stops_its_feed_and_one_of_its_name_is_another(connection: Connection, once: str) -> None:
    feed = await watch(connection, "'orders'" + once)
    await write(connection, "INSERT INTO orders VALUES (1, 'c')", "DROP TABLE orders")
    assert await state(connection) == ("stopped", "the table was dropped")
    await connection.execute("SELECT changefeed.check_feeds(); SELECT changefeed.check_feeds()")
    assert await rows(connection, feed, "op, image") == [
        ("upsert", '{"id":1,"customer":"c","note":null,"amount":null}'),
        ("stopped", "the table was dropped"),
    ]
    await write(connection, ORDERS, "INSERT INTO orders VALUES (1, 'c')")
    with pytest.raises(errors.DuplicateObject) as refusal:
        await watch(connection)
    assert f"changefeed.drop_feed({feed})" in str(refusal.value.diag.message_hint)
    await connection.execute("SELECT changefeed.drop_feed(%s)", (feed,))
    left = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'changefeed_log'::regnamespace"
    assert await one(connection, left) == 0
    assert await watch(connection) != feed


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (
            "ALTER TABLE orders DISABLE TRIGGER changefeed_1_insert",
            "the trigger changefeed_1_insert of public.orders is disabled",
        ),
        ("DROP TRIGGER changefeed_1_delete ON orders", "the trigger changefeed_1_delete is missing"),
    ],
)
async def test_a_trigger_that_does_not_fire_is_found(connection: Connection, statement: str, problem: str) -> None:
    feed = await watch(connection)
    await write(connection, statement)
    await connection.execute("SELECT changefeed.check_feeds()")
    assert await state(connection) == ("stopped", problem)
    assert await rows(connection, feed, "op, image") == [("stopped", problem)]
    await write(connection, "ALTER TABLE orders ENABLE TRIGGER ALL")
    await connection.execute("SELECT changefeed.check_feeds()")
    stopped = await one(connection, "SELECT stopped FROM changefeed.feeds")
    assert stopped == (problem if "missing" in problem else None)
    assert len(await rows(connection, feed)) == 1


# --- A copy


async def restored(postgres: PostgresForTests, dsn: str) -> str:
    """A copy by pg_dump and pg_restore."""
    target = await postgres.fresh("template1")
    binaries = postgres.server.binaries
    with TemporaryDirectory(prefix="changefeed-tests-") as directory:
        for program, *arguments in (
            ("pg_dump", "--format=custom", f"--file={directory}/dump", dsn),
            ("pg_restore", "--exit-on-error", "-d", target, f"{directory}/dump"),
        ):
            process = await asyncio.create_subprocess_exec(str(binaries / program), *arguments)
            assert await process.wait() == 0, program
    return target


async def test_a_restored_table_is_captured_from_its_first_write_on(
    connection: Connection, log_database: str, postgres: PostgresForTests, once: str
) -> None:
    feed = await watch(connection, "'orders', partition_key => '{customer}', image_columns => '{id,note}'" + once)
    await write(connection, "INSERT INTO orders VALUES (1, 'c')", "ALTER TABLE orders DROP amount")
    copy = await restored(postgres, log_database)
    async with await psycopg.AsyncConnection.connect(copy, autocommit=True) as other:
        await write(other, "INSERT INTO orders VALUES (2, 'd', 'n')")
        await adopted(other)
        await write(other, "DELETE FROM orders WHERE id = 2")
        assert await rows(other, feed, CHANGE) == [
            ("upsert", True, "c", "1", '{"id":1,"note":null}'),
            ("upsert", True, "d", "2", '{"id":2,"note":"n"}'),
            ("delete", False, "d", "2", None),
        ]
    await postgres.drop(copy)


@pytest.mark.parametrize(
    "options", ["'orders', partition_key => '{customer}'", "'orders', image_columns => '{customer}'"]
)
async def test_columns_that_a_dump_has_numbered_anew_are_not_taken_for_others(
    connection: Connection, log_database: str, postgres: PostgresForTests, once: str, options: str
) -> None:
    await write(connection, "DROP TABLE orders")
    await write(
        connection, "CREATE TABLE orders (gone int, id int PRIMARY KEY, customer text NOT NULL, x text NOT NULL)"
    )
    await write(connection, "ALTER TABLE orders DROP gone")
    feed = await watch(connection, options + once)
    copy = await restored(postgres, log_database)
    async with await psycopg.AsyncConnection.connect(copy, autocommit=True) as other:
        await write(other, "INSERT INTO orders VALUES (2, 'd', 'x')", "SELECT changefeed.check_feeds()")
        assert await state(other) == ("stopped", "the table was restored, and its columns are numbered anew")
        assert {op for (op,) in await rows(other, feed, "op")} == {"stopped"}
    await postgres.drop(copy)


# --- What readers are told


@pytest.mark.parametrize("scope", [WHOLE, LogicalPartition("c"), PhysicalPartition(PartitionId("0-4095"))], ids=repr)
@pytest.mark.req("P6")
async def test_a_reader_gets_all_that_was_captured_and_then_the_gap(
    connection: Connection, log_database: str, scope: Scope
) -> None:
    await watch(connection, "'orders', partition_key => '{customer}'")
    await write(connection, "INSERT INTO orders VALUES (1, 'c'), (2, 'c')")
    await write(connection, "ALTER TABLE orders DROP CONSTRAINT orders_pkey", "DELETE FROM orders")
    async with open_provider(log_database) as provider:
        feed = await provider.open_feed(address("public.orders"))
        page = await provider.read_page(feed, page_read(Beginning(), scope=scope))
        assert [change.key.components[0].value for change in page.changes] == ["1", "2"]
        assert page.more_available
        for _ in range(2):
            with pytest.raises(
                HistoryGap,
                match=r"no unique index that is checked at once is left on its key \(id\).*changefeed doctor",
            ):
                await provider.read_page(feed, page_read(After(page.cursor), scope=scope))


QUICK = PostgresOptions(check_cadence=timedelta(milliseconds=50))


@pytest.mark.req("P6")
async def test_a_table_that_is_dropped_ends_the_reads_that_wait(connection: Connection, log_database: str) -> None:
    await watch(connection)
    async with open_provider(log_database, QUICK) as provider:
        feed = await provider.open_feed(address("public.orders"))
        waiting = asyncio.create_task(provider.read_page(feed, page_read(Now(), wait=60)))
        await provider.read_page(feed, page_read(Now()))
        await write(connection, "DROP TABLE orders")
        with pytest.raises(HistoryGap, match="the table was dropped"):
            await waiting
        feed = await provider.open_feed(address("public.orders"))
        with pytest.raises(HistoryGap, match="the table was dropped"):
            await provider.read_page(feed, page_read(Now()))


async def test_the_gateway_fits_capture_to_an_altered_table(connection: Connection, log_database: str) -> None:
    await watch(connection)
    await write(connection, "ALTER TABLE orders RENAME id TO number")
    async with open_provider(log_database, QUICK) as provider:
        feed = await provider.open_feed(address("public.orders"))
        async with asyncio.timeout(30):
            while await state(connection) != ("capturing", None):
                await connection.execute("SELECT pg_sleep(0.02)")
        await write(connection, "INSERT INTO orders VALUES (1, 'c')")
        page = await provider.read_page(feed, page_read(Beginning()))
        assert [change.key.components[0][:2] for change in page.changes] == [("id", "1")]


async def test_after_the_remedy_a_reader_starts_from_now(connection: Connection, log_database: str) -> None:
    await watch(connection)
    await write(connection, "ALTER TABLE orders DISABLE TRIGGER changefeed_1_insert", "SELECT changefeed.check_feeds()")
    await write(connection, "ALTER TABLE orders ENABLE TRIGGER changefeed_1_insert", "SELECT changefeed.check_feeds()")
    async with open_provider(log_database) as provider:
        feed = await provider.open_feed(address("public.orders"))
        with pytest.raises(HistoryGap):
            await provider.read_page(feed, page_read(Beginning()))
        start = await provider.read_page(feed, page_read(Now()))
        await write(connection, "INSERT INTO orders VALUES (1, 'c')")
        assert len((await provider.read_page(feed, page_read(After(start.cursor)))).changes) == 1
