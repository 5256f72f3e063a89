"""What the options of `changefeed.watch` capture: given keys, listed columns, replicated writes, partitioned tables."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import make_conninfo

from changefeed_gateway.providers.postgres.embedded.server import EmbeddedPostgres
from changefeed_gateway.providers.postgres.operations.migrations import migrate
from tests.databases import BINARIES, PARAMETERS, server_directory
from tests.postgres.conftest import Connection
from tests.postgres.test_watch import rows, watch

ORDERS = "CREATE TABLE orders (id bigint PRIMARY KEY, customer text NOT NULL, note text)"


@pytest.fixture
async def connection(log_database: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection:
        await connection.execute(ORDERS)
        yield connection


async def one(connection: Connection, query: str) -> object:
    row = await (await connection.execute(query.encode())).fetchone()
    assert row is not None
    return row[0]


# --- Key, image, retention


async def test_a_given_key_is_backed_by_a_unique_index(connection: Connection) -> None:
    await connection.execute(
        "CREATE TABLE lines (note text, part int NOT NULL, code text NOT NULL);"
        "CREATE UNIQUE INDEX ON lines (code, part) INCLUDE (note);"
        'CREATE UNIQUE INDEX "only some" ON lines (code) WHERE part = 1'
    )
    feed = await watch(connection, "'lines', key => array['part', 'code'], partition_key => array['code']")
    await connection.execute("INSERT INTO lines VALUES ('n', 1, 'a'), ('n', 2, 'a')")
    await connection.execute("UPDATE lines SET part = 3 WHERE part = 1; DELETE FROM lines WHERE part = 2")
    assert await rows(connection, feed) == [
        ("upsert", True, "a", '["1","a"]'),
        ("upsert", True, "a", '["2","a"]'),
        ("delete", False, "a", '["1","a"]'),
        ("upsert", True, "a", '["3","a"]'),
        ("delete", False, "a", '["2","a"]'),
    ]


async def test_a_given_key_is_found_again_for_a_row_that_a_trigger_changed(connection: Connection) -> None:
    await connection.execute("""
        CREATE TABLE lines (code text NOT NULL UNIQUE, v int);
        CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN UPDATE lines SET v = 2 WHERE code = new.code AND new.v = 1; RETURN NULL; END';
        CREATE TRIGGER again AFTER INSERT ON lines FOR EACH ROW EXECUTE FUNCTION again()
    """)
    feed = await watch(connection, "'lines', key => array['code']")
    await connection.execute("INSERT INTO lines VALUES ('a', 1)")
    assert (await rows(connection, feed, "op, created, key, image"))[-1] == (
        *("upsert", True, "a"),
        '{"code":"a","v":2}',
    )


async def test_an_image_holds_the_listed_columns_only(connection: Connection) -> None:
    feed = await watch(connection, "'orders', image_columns => array['note', 'id']")
    await connection.execute("INSERT INTO orders VALUES (1, 'secret', 'n'); UPDATE orders SET id = 2")
    assert await rows(connection, feed, "key, image") == [
        ("1", '{"id":1,"note":"n"}'),
        ("1", None),
        ("2", '{"id":2,"note":"n"}'),
    ]


async def test_a_virtual_column_can_be_left_out_of_the_image(connection: Connection) -> None:
    if connection.info.server_version < 180000:
        await connection.execute("ALTER TABLE orders ADD twice bigint GENERATED ALWAYS AS (id * 2) STORED")
    else:
        await connection.execute("ALTER TABLE orders ADD twice bigint GENERATED ALWAYS AS (id * 2) VIRTUAL")
    feed = await watch(connection, "'orders', image_columns => array['id']")
    await connection.execute("INSERT INTO orders VALUES (1, 'c', 'n')")
    assert await rows(connection, feed, "image") == [('{"id":1}',)]


async def test_retention_is_taken_and_may_be_changed_by_watching_again(connection: Connection) -> None:
    feed = await watch(connection, "'orders', retention => '3 days'")
    retention = f"SELECT retention FROM changefeed.feeds WHERE feed_id = {feed}"
    assert await one(connection, retention) == timedelta(days=3)
    assert await watch(connection, "'orders'") == feed
    assert await one(connection, retention) == timedelta(days=3)
    assert await watch(connection, "'orders', retention => '14 days'") == feed
    assert await one(connection, retention) == timedelta(days=14)


# --- Again


@pytest.mark.parametrize(
    ("first", "second", "field"),
    [
        ("", "key => array['id', 'customer']", "key"),
        ("", "partition_key => array['customer']", "partition_key"),
        ("", "image => 'none'", "image"),
        ("", "image_columns => array['id']", "image_columns"),
        ("", "doorbell => 'poll'", "doorbell"),
        ("", "always => true", "always"),
    ],
)
@pytest.mark.req("DB-12")
async def test_another_option_is_refused_by_its_name(
    connection: Connection, first: str, second: str, field: str
) -> None:
    await connection.execute("CREATE UNIQUE INDEX ON orders (id, customer)")
    await watch(connection, "'orders'")
    with pytest.raises(errors.DuplicateObject, match=f"^{field}: public.orders is watched with another one") as refusal:
        await watch(connection, f"'orders', {second}")
    assert "unwatch" in str(refusal.value.diag.message_hint)


@pytest.mark.req("DB-12")
async def test_the_same_again_waits_for_nobody_and_writes_nothing(connection: Connection, log_database: str) -> None:
    options = "'orders', key => '{id}', image_columns => '{id,note}', always => true, retention => '3 days'"
    feed = await watch(connection, options)
    async with await psycopg.AsyncConnection.connect(log_database) as writer:
        await writer.execute(
            "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE; LOCK TABLE changefeed.feeds IN EXCLUSIVE MODE"
        )
        async with connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '1s'")
            await connection.execute("SELECT oid FROM pg_class WHERE false")
            # By its number: looking a name up locks for an instant.
            oid = await one(connection, "SELECT source::bigint FROM changefeed.feeds")
            assert await watch(connection, options.replace("'orders'", str(oid))) == feed
            assert await one(connection, "SELECT pg_current_xact_id_if_assigned()") is None
            locks = (
                "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND mode !~ 'AccessShare|ExclusiveLock$'"
            )
            assert await one(connection, locks) == 0


@pytest.mark.req("DB-12")
async def test_a_writer_that_does_not_end_is_named_and_nothing_is_left(
    connection: Connection, log_database: str
) -> None:
    async with await psycopg.AsyncConnection.connect(log_database) as writer:
        await writer.execute("INSERT INTO orders VALUES (1, 'c')")
        with pytest.raises(errors.LockNotAvailable, match=r"source: public\.orders is being written to") as refusal:
            await watch(connection)
        assert "Nothing was changed" in str(refusal.value.diag.message_hint)
        assert await one(connection, "SELECT count(*) FROM changefeed.feeds") == 0


async def test_two_who_watch_at_once_make_one_feed(connection: Connection, log_database: str) -> None:
    async with (
        await psycopg.AsyncConnection.connect(log_database, autocommit=True) as one_more,
        await psycopg.AsyncConnection.connect(log_database, autocommit=True) as another,
    ):
        feeds = await asyncio.gather(*(watch(who) for who in (connection, one_more, another)))
    assert len(set(feeds)) == 1
    assert await one(connection, "SELECT count(*) FROM changefeed.feeds") == 1


# --- Partitioned tables

EVENTS = """
    CREATE TABLE events (at int, id int, note text, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
    CREATE TABLE events_low PARTITION OF events FOR VALUES FROM (0) TO (10);
    CREATE TABLE events_high PARTITION OF events FOR VALUES FROM (10) TO (20) PARTITION BY LIST (id);
    CREATE TABLE events_high_1 PARTITION OF events_high DEFAULT;
"""


async def test_a_partitioned_table_is_captured_wherever_it_is_written(connection: Connection) -> None:
    await connection.execute(EVENTS)
    feed = await watch(connection, "'events', partition_key => '{id}'")
    await connection.execute("INSERT INTO events VALUES (1, 1, 'root'), (11, 2, 'root')")
    await connection.execute("INSERT INTO events_low VALUES (2, 3, 'leaf')")
    async with connection.cursor() as cursor, cursor.copy("COPY events_high_1 FROM STDIN") as copy:
        await copy.write_row((12, 4, "copied"))
    await connection.execute("UPDATE events SET note = 'u' WHERE at < 5")
    await connection.execute("DELETE FROM events_high WHERE id = 2")
    await connection.execute("INSERT INTO events VALUES (1, 1) ON CONFLICT (at, id) DO UPDATE SET note = 'c'")
    await connection.execute("TRUNCATE events")
    assert await rows(connection, feed, "op, created, partition_key, key, image::json ->> 'note'") == [
        ("upsert", True, "1", '["1","1"]', "root"),
        ("upsert", True, "2", '["11","2"]', "root"),
        ("upsert", True, "3", '["2","3"]', "leaf"),
        ("upsert", True, "4", '["12","4"]', "copied"),
        ("upsert", False, "1", '["1","1"]', "u"),
        ("upsert", False, "3", '["2","3"]', "u"),
        ("delete", False, "2", '["11","2"]', None),
        ("upsert", False, "1", '["1","1"]', "c"),
        ("truncate", False, "", "", None),
    ]


async def test_a_row_that_moves_partition_is_a_delete_and_a_create(connection: Connection) -> None:
    await connection.execute(EVENTS)
    feed = await watch(connection, "'events'")
    await connection.execute("INSERT INTO events VALUES (1, 1); UPDATE events SET at = 15; UPDATE events SET at = 16")
    assert await rows(connection, feed, "op, created, key") == [
        ("upsert", True, '["1","1"]'),
        ("delete", False, '["1","1"]'),
        ("upsert", True, '["15","1"]'),
        ("delete", False, '["15","1"]'),
        ("upsert", True, '["16","1"]'),
    ]


async def test_partitions_made_and_attached_later_are_captured_too(connection: Connection) -> None:
    await connection.execute(EVENTS)
    feed = await watch(connection, "'events', always => true")
    await connection.execute("""
        CREATE TABLE events_20 PARTITION OF events FOR VALUES FROM (20) TO (30);
        CREATE TABLE events_30 (gone int, note text, id int NOT NULL, at int NOT NULL);
        ALTER TABLE events_30 DROP gone;
        ALTER TABLE events ATTACH PARTITION events_30 FOR VALUES FROM (30) TO (40);
        SET session_replication_role = replica;
        INSERT INTO events_20 VALUES (20, 1, 'n');
        INSERT INTO events_30 VALUES ('n', 1, 30);
        UPDATE events SET note = 'u';
        RESET session_replication_role
    """)
    changes = await rows(connection, feed, "created, key, image::jsonb")
    assert changes == [
        (True, '["20","1"]', {"at": 20, "id": 1, "note": "n"}),
        (True, '["30","1"]', {"at": 30, "id": 1, "note": "n"}),
        (False, '["20","1"]', {"at": 20, "id": 1, "note": "u"}),
        (False, '["30","1"]', {"at": 30, "id": 1, "note": "u"}),
    ]


async def test_a_row_of_a_partition_that_a_trigger_changed_again_ends_as_it_is(connection: Connection) -> None:
    await connection.execute(EVENTS)
    await connection.execute("""
        CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            UPDATE events SET note = 'last' WHERE note = 'first';
            DELETE FROM events WHERE note = 'never';
            RETURN NULL;
        END $$;
        CREATE TRIGGER again AFTER INSERT OR UPDATE ON events FOR EACH ROW EXECUTE FUNCTION again()
    """)
    feed = await watch(connection, "'events'")
    await connection.execute("INSERT INTO events VALUES (1, 1, 'first'), (11, 2, 'first'), (2, 3, 'never')")
    last = {key: (op, image) for key, op, image in await rows(connection, feed, "key, op, image::json ->> 'note'")}
    assert last.pop('["2","3"]', ("delete", None)) == ("delete", None)
    assert last == {'["1","1"]': ("upsert", "last"), '["11","2"]': ("upsert", "last")}


async def test_rows_that_a_cascade_deletes(connection: Connection) -> None:
    await connection.execute(EVENTS)
    await connection.execute("""
        CREATE TABLE owners (id int PRIMARY KEY);
        ALTER TABLE events ADD owner int REFERENCES owners ON DELETE CASCADE ON UPDATE CASCADE;
        INSERT INTO owners VALUES (1), (2);
        INSERT INTO events SELECT n, n, 'n', 1 + n % 2 FROM generate_series(1, 18) n
    """)
    feed = await watch(connection, "'events'")
    await connection.execute("DELETE FROM owners WHERE id = 1")
    await connection.execute("UPDATE owners SET id = 3")
    changes = await rows(connection, feed, "op, image::json ->> 'owner'")
    assert changes == [("delete", None)] * 9 + [("upsert", "3")] * 9


# --- Replicated writes


async def test_only_an_always_feed_sees_what_is_written_as_a_replica(connection: Connection) -> None:
    await connection.execute("CREATE TABLE copies (id int PRIMARY KEY)")
    usual, always = await watch(connection), await watch(connection, "'copies', always => true")
    await connection.execute("SET session_replication_role = replica")
    await connection.execute("INSERT INTO orders VALUES (1, 'c'); INSERT INTO copies VALUES (1); TRUNCATE copies")
    assert await rows(connection, usual) == []
    assert await rows(connection, always, "op, key") == [("upsert", "1"), ("truncate", "")]


async def test_logical_replication_is_captured_from_its_first_copy_on() -> None:
    with server_directory() as directory:
        parameters = {**PARAMETERS, "wal_level": "logical"}
        async with EmbeddedPostgres(Path(directory) / "data", parameters=parameters, binaries=BINARIES) as server:
            await _replicate(server.dsn)


async def _replicate(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as source:
        await source.execute("CREATE DATABASE target")
        await source.execute(ORDERS)
        await source.execute("INSERT INTO orders VALUES (1, 'copied')")
        await source.execute("CREATE PUBLICATION p FOR TABLE orders")
        await source.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        target_dsn = make_conninfo(dsn, dbname="target")
        await migrate(target_dsn, documents=False)
        async with await psycopg.AsyncConnection.connect(target_dsn, autocommit=True) as target:
            await target.execute(ORDERS)
            feed = await watch(target, "'orders', always => true")
            subscribe = (
                f"CREATE SUBSCRIPTION s CONNECTION '{dsn}' PUBLICATION p WITH (create_slot = false, slot_name = s)"
            )
            await target.execute(subscribe.encode())
            await _logged(target, feed, 1)
            await source.execute("INSERT INTO orders VALUES (2, 'applied')")
            await source.execute("UPDATE orders SET note = 'n' WHERE id = 2; DELETE FROM orders WHERE id = 1")
            await source.execute("TRUNCATE orders")
            await _logged(target, feed, 5)
            assert await rows(target, feed, "op, created, key, image::json ->> 'customer'") == [
                ("upsert", True, "1", "copied"),
                ("upsert", True, "2", "applied"),
                ("upsert", False, "2", "applied"),
                ("delete", False, "1", None),
                ("truncate", False, "", None),
            ]
            await target.execute("DROP SUBSCRIPTION s")


async def _logged(connection: Connection, feed: int, count: int) -> None:
    """Wait for so many changes."""
    async with asyncio.timeout(60):
        while len(await rows(connection, feed)) < count:
            await connection.execute("SELECT pg_sleep(0.05)")
