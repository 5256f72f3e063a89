"""What `changefeed.watch` captures of a plain table, and what it refuses."""

from collections import Counter
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg import errors

from tests.postgres.conftest import Connection


@pytest.fixture
async def connection(log_database: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection:
        await connection.execute("CREATE TABLE orders (id bigint PRIMARY KEY, customer text NOT NULL, note text)")
        yield connection


async def watch(connection: Connection, arguments: str = "'orders'") -> int:
    row = await (await connection.execute(f"SELECT changefeed.watch({arguments})".encode())).fetchone()
    assert row is not None
    return int(row[0])


async def rows(
    connection: Connection, feed: int, columns: str = "op, created, partition_key, key"
) -> list[tuple[object, ...]]:
    query = f"SELECT {columns} FROM changefeed_log.log_{feed} ORDER BY seq"
    return list(await (await connection.execute(query.encode())).fetchall())


@pytest.mark.req("DB-3")
async def test_every_kind_of_statement_is_captured(connection: Connection) -> None:
    feed = await watch(connection)
    await connection.execute("INSERT INTO orders VALUES (1, 'a'), (2, 'b')")
    async with connection.cursor() as cursor, cursor.copy("COPY orders (id, customer) FROM STDIN") as copy:
        await copy.write_row((3, "c"))
    await connection.execute("UPDATE orders SET note = 'n' WHERE id = 1")
    await connection.execute(
        "INSERT INTO orders VALUES (1, 'a'), (4, 'd') ON CONFLICT (id) DO UPDATE SET note = excluded.note || 'x'"
    )
    await connection.execute("INSERT INTO orders VALUES (4, 'd') ON CONFLICT DO NOTHING")
    await connection.execute("UPDATE orders SET note = 'never' WHERE id = 99")
    await connection.execute(
        "MERGE INTO orders o USING (VALUES (2), (5)) v (id) ON o.id = v.id"
        " WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (v.id, 'e')"
    )
    await connection.execute("TRUNCATE orders")
    assert await rows(connection, feed, "op, created, key") == [
        ("upsert", True, "1"),
        ("upsert", True, "2"),
        ("upsert", True, "3"),
        ("upsert", False, "1"),
        ("upsert", False, "1"),
        ("upsert", True, "4"),
        ("delete", False, "2"),
        ("upsert", True, "5"),
        ("truncate", False, ""),
    ]


@pytest.mark.req("CF-03")
async def test_the_image_is_the_row_as_the_statement_left_it(connection: Connection) -> None:
    feed = await watch(connection)
    async with connection.transaction():
        await connection.execute("INSERT INTO orders VALUES (1, 'a', 'first')")
        await connection.execute("UPDATE orders SET note = repeat('long', 5000)")
        await connection.execute("UPDATE orders SET customer = 'z'")
    images = await rows(connection, feed, "image::json ->> 'note' = repeat('long', 5000), image::json ->> 'customer'")
    assert images == [(False, "a"), (True, "a"), (True, "z")]


async def test_a_changed_key_is_a_delete_and_a_create_even_in_a_swap(connection: Connection) -> None:
    feed = await watch(connection)
    await connection.execute("INSERT INTO orders SELECT n, 'c' FROM generate_series(1, 3) n")
    await connection.execute("UPDATE orders SET id = CASE id WHEN 2 THEN 12 ELSE id END")
    changes = (await rows(connection, feed, "op, created, key"))[3:]
    assert changes[0] == ("delete", False, "2")
    assert sorted(changes[1:], key=str) == [
        ("upsert", False, "1"),
        ("upsert", False, "3"),
        ("upsert", True, "12"),
    ]


async def test_a_changed_partition_key_leaves_there_before_it_arrives_here(connection: Connection) -> None:
    feed = await watch(connection, "'orders', partition_key => array['customer']")
    await connection.execute("INSERT INTO orders VALUES (1, '[a')")
    async with connection.transaction():
        await connection.execute("UPDATE orders SET customer = 'b'")
        await connection.execute("UPDATE orders SET note = 'same key'")
    assert await rows(connection, feed) == [
        ("upsert", True, '["[a"]', "1"),
        ("delete", False, '["[a"]', "1"),
        ("upsert", True, "b", "1"),
        ("upsert", False, "b", "1"),
    ]


async def test_composite_and_session_dependent_keys_are_written_one_way(connection: Connection) -> None:
    await connection.execute("CREATE TABLE readings (at timestamptz, raw bytea, PRIMARY KEY (at, raw))")
    feed = await watch(connection, "'readings'")
    for zone, style in (("Asia/Tokyo", "German"), ("UTC", "ISO")):
        await connection.execute(f"SET timezone = '{zone}'".encode())
        await connection.execute(f"SET datestyle = '{style}'".encode())
        await connection.execute("INSERT INTO readings VALUES ('2026-01-02T03:04:05Z', '\\x00ff')")
        await connection.execute("DELETE FROM readings")
    assert {row[0] for row in await rows(connection, feed, "key")} == {'["2026-01-02 03:04:05+00","AP8="]'}
    assert len({row[0] for row in await rows(connection, feed, "image") if row[0]}) == 1


@pytest.mark.req("DB-12")
async def test_again_is_harmless_and_other_options_are_refused(connection: Connection) -> None:
    feed = await watch(connection)
    assert await watch(connection, "'public.orders'") == feed
    with pytest.raises(errors.DuplicateObject) as refusal:
        await watch(connection, "'orders', image => 'none'")
    assert "unwatch" in str(refusal.value.diag.message_hint)


UNWATCHABLE = """
    CREATE TABLE keyless (a int);
    CREATE VIEW a_view AS SELECT 1 AS one;
    CREATE MATERIALIZED VIEW a_kept_view AS SELECT 1 AS one;
    CREATE SEQUENCE a_sequence;
    CREATE FOREIGN DATA WRAPPER nothing;
    CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing;
    CREATE FOREIGN TABLE a_foreign_table (a int NOT NULL) SERVER elsewhere;
    CREATE TEMP TABLE temporary (a int PRIMARY KEY);
    CREATE UNLOGGED TABLE unlogged (a int PRIMARY KEY);
    CREATE TABLE parted (a int PRIMARY KEY) PARTITION BY RANGE (a);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (9);
    CREATE TABLE leaky (a int NOT NULL) PARTITION BY RANGE (a);
    CREATE FOREIGN TABLE leaky_1 PARTITION OF leaky FOR VALUES FROM (0) TO (9) SERVER elsewhere;
    CREATE TABLE parent (a int PRIMARY KEY);
    CREATE TABLE child () INHERITS (parent);
    CREATE TABLE deferred (a int PRIMARY KEY DEFERRABLE, b int NOT NULL UNIQUE DEFERRABLE);
    CREATE UNIQUE INDEX ON orders (customer) WHERE note IS NOT NULL;
    CREATE UNIQUE INDEX ON orders (note);
"""


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ("'keyless'", "key: public.keyless has no primary key", "Add a primary key"),
        ("'a_view'", "source: public.a_view is a view", "tables that the view reads"),
        ("'a_kept_view'", "source: public.a_kept_view is a view", "tables that the view reads"),
        ("'a_sequence'", "source: public.a_sequence is not a table", "table that holds the rows"),
        (
            "'a_foreign_table'",
            "source: public.a_foreign_table is a foreign table",
            "in the database that holds its rows",
        ),
        ("'temporary'", "source: .*temporary is a temporary table", "permanent"),
        ("'unlogged'", "source: public.unlogged is unlogged", "set logged"),
        ("'parted_1'", "source: public.parted_1 is a partition", "Watch the whole table, public.parted"),
        ("'leaky'", "source: the partition public.leaky_1 is foreign", "Detach it"),
        ("'child'", "source: public.child takes part in inheritance", "partitioned"),
        ("'changefeed.feeds'", "source: changefeed.feeds belongs to", "of the application"),
        ("0", "source: there is no such table", "public.orders"),
        ("'orders', image => 'full'", "image is 'full'", "captured or none"),
        ("'orders', image => null", "image is null", "captured or none"),
        ("'orders', doorbell => 'loud'", "doorbell is 'loud'", "notify or poll"),
        ("'orders', always => null", "always is null", "true or false"),
        ("'orders', retention => '1 hour'", "retention is '01:00:00'", "1 day to 366 days"),
        ("'orders', retention => '400 days'", "retention is '400 days'", "1 day to 366 days"),
        (
            "'orders', partition_key => array['nothing']",
            "partition_key: public.orders has no column nothing",
            "id, customer",
        ),
        (
            "'orders', partition_key => array['note']",
            "partition_key: the column note of public.orders may be",
            "set not null",
        ),
        ("'orders', partition_key => '{}'", "partition_key: is empty", "leave the argument out"),
        ("'orders', key => array['nothing']", "key: public.orders has no column nothing", "id, customer, note"),
        ("'orders', key => array['ctid']", "key: public.orders has no column ctid", "id, customer, note"),
        ("'orders', key => array['note']", "key: the column note of public.orders may be null", "set not null"),
        (
            "'orders', key => array['customer']",
            r"key: no unique index of public.orders is on exactly \(customer\)",
            "unique index on",
        ),
        ("'deferred'", r"key: the primary key of public.deferred is checked after its statement", "add unique (a)"),
        (
            "'deferred', key => '{b}'",
            r"key: no unique index of public.deferred is on exactly \(b\) and checked at",
            "unique",
        ),
        ("'orders', key => array['id', 'id']", "key: is empty, or names a column twice", "once"),
        (
            "'orders', image_columns => array['id', 'n']",
            "image_columns: public.orders has no column n",
            "id, customer, note",
        ),
        ("'orders', image_columns => array[null]", "image_columns: is empty, or", "once"),
        ("'orders', image => 'none', image_columns => '{id}'", "image_columns: there is no image", "Leave"),
    ],
)
@pytest.mark.req("P5")
async def test_what_cannot_be_watched_is_refused_with_a_hint_and_changes_nothing(
    connection: Connection, arguments: str, message: str, hint: str
) -> None:
    await connection.execute(UNWATCHABLE)
    with pytest.raises(psycopg.Error, match=message) as refusal:
        await watch(connection, arguments)
    assert hint in str(refusal.value.diag.message_hint)
    left = await (
        await connection.execute(
            "SELECT (SELECT count(*) FROM changefeed.feeds), (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal)"
        )
    ).fetchone()
    assert left == (0, 0)


async def test_writers_need_no_rights_on_the_log(connection: Connection) -> None:
    feed = await watch(connection)
    await connection.execute(
        "DROP ROLE IF EXISTS clerk; CREATE ROLE clerk; GRANT INSERT, UPDATE, SELECT ON orders TO clerk"
    )
    await connection.execute("SET ROLE clerk")
    await connection.execute("INSERT INTO orders VALUES (1, 'a')")
    await connection.execute("UPDATE orders SET id = 2")
    with pytest.raises(errors.InsufficientPrivilege):
        await rows(connection, feed)
    await connection.execute("RESET ROLE")
    assert len(await rows(connection, feed)) == 3
    await connection.execute("DROP OWNED BY clerk; DROP ROLE clerk")


async def test_a_hostile_search_path_captures_all_the_same(connection: Connection) -> None:
    feed = await watch(connection)
    await connection.execute(
        "CREATE SCHEMA evil; SET search_path = evil, public;"
        "CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT NULL::timestamptz $$;"
        "CREATE FUNCTION evil.starts_with(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$"
    )
    await connection.execute("INSERT INTO orders VALUES (1, 'a')")
    assert await rows(connection, feed) == [("upsert", True, "1", "1")]


async def test_unwatch_leaves_nothing(connection: Connection) -> None:
    feed = await watch(connection)
    await connection.execute("SELECT changefeed.unwatch('orders')")
    await connection.execute("INSERT INTO orders VALUES (1, 'a')")
    left = await (
        await connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'changefeed_log'::regnamespace AND relname ~ %s",
            [f"_{feed}(_|$)"],
        )
    ).fetchall()
    functions = await (
        await connection.execute("SELECT proname FROM pg_proc WHERE pronamespace = 'changefeed_log'::regnamespace")
    ).fetchall()
    assert (left, functions) == ([], [])


@pytest.mark.req("DB-1", "DB-10")
async def test_a_day_without_a_partition_fails_no_write(connection: Connection) -> None:
    feed = await watch(connection)
    days = await (
        await connection.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass",
            [f"changefeed_log.log_{feed}"],
        )
    ).fetchall()
    names = [row[0] for row in days]
    assert sum(name.endswith(("_past", "_future")) for name in names) == 2
    for day in (-40, 40):
        await connection.execute(
            f"INSERT INTO changefeed_log.log_{feed} (xid, changed_at, bucket, created, op, partition_key, key)"
            f" VALUES (pg_current_xact_id(), now() + interval '{day} days', 1, true, 'upsert', 'k', 'k')".encode()
        )
    assert len(await rows(connection, feed)) == 2


async def test_a_partition_key_picks_its_bucket_by_a_hash_of_its_bytes_whatever_its_collation(
    connection: Connection,
) -> None:
    query = "SELECT changefeed.bucket(k), changefeed.bucket(k COLLATE folded) FROM unnest(%s::text[]) k"
    folded = "CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
    try:
        await connection.execute(folded)
    except errors.FeatureNotSupported:
        query = query.replace("folded", '"C"')  # this server was built without such collations
    keys = ["", "k", "K", '["a", "b"]', "ключ", "x" * 1000, *(str(n) for n in range(20_000))]
    found = await (await connection.execute(query.encode(), (keys,))).fetchall()
    buckets = Counter(bucket for bucket, _ in found)
    assert [bucket for bucket, _ in found] == [other for _, other in found]
    assert (min(buckets), max(buckets)) == (0, 4095)
    assert found[1] != found[2]
    # About five keys a bucket, and the seventh part of a thousandth of the buckets without one.
    assert len(buckets) > 3_900
    assert max(buckets.values()) < 30
