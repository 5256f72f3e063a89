"""Statements and columns with a twist: what reaches a reader of a watched table."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from changefeed_gateway.core.model import Beginning, Change
from tests.postgres.conftest import Connection
from tests.postgres.reading import address, open_provider, page_read, read_all


@pytest.fixture
async def connection(log_database: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection:
        yield connection


async def make(connection: Connection, *tables: str) -> None:
    for table in tables:
        await connection.execute(f"CREATE TABLE {table}".encode())
        await connection.execute("SELECT changefeed.watch(%s::regclass)", (table.split()[0],))


async def changes(dsn: str, table: str) -> list[Change]:
    async with open_provider(dsn) as provider:
        feed = await provider.open_feed(address(f"public.{table}"))
        found, _ = await read_all(provider, feed, page_read(Beginning()))
        return found


async def told(dsn: str, table: str) -> list[tuple[str, list[str], str | None]]:
    """Type, key and image of every change."""
    return [
        (change.change_type.value, [component.value for component in change.key.components], change.item)
        for change in await changes(dsn, table)
    ]


async def test_stored_generated_columns_are_in_the_image_as_they_came_to_be(
    connection: Connection, log_database: str
) -> None:
    await make(connection, "t (id int PRIMARY KEY, v int, twice int GENERATED ALWAYS AS (v * 2) STORED)")
    await connection.execute("INSERT INTO t (id, v) VALUES (1, 4)")
    await connection.execute("UPDATE t SET v = 5")
    assert await told(log_database, "t") == [
        ("create", ["1"], '{"id":1,"v":4,"twice":8}'),
        ("update", ["1"], '{"id":1,"v":5,"twice":10}'),
    ]


async def test_a_key_may_be_generated(connection: Connection, log_database: str) -> None:
    await make(connection, "t (v int, k int GENERATED ALWAYS AS (v * 2) STORED PRIMARY KEY)")
    await connection.execute("INSERT INTO t (v) VALUES (1)")
    await connection.execute("UPDATE t SET v = 2")
    assert await told(log_database, "t") == [
        ("create", ["2"], '{"v":1,"k":2}'),
        ("delete", ["2"], None),
        ("create", ["4"], '{"v":2,"k":4}'),
    ]


@pytest.mark.parametrize("storage", ["EXTERNAL", "EXTENDED"])
async def test_a_big_value_that_an_update_leaves_alone_arrives_whole(
    connection: Connection, log_database: str, storage: str
) -> None:
    """It lies out of line: the new row holds a pointer to it only."""
    await make(connection, "t (id int PRIMARY KEY, n int, big text)")
    await connection.execute(f"ALTER TABLE t ALTER big SET STORAGE {storage}".encode())
    await connection.execute("INSERT INTO t SELECT 1, 0, string_agg(md5(n::text), '') FROM generate_series(1, 10000) n")
    cursor = await connection.execute(
        "SELECT pg_relation_size(reltoastrelid) > 100000 FROM pg_class WHERE oid = 't'::regclass"
    )
    assert await cursor.fetchone() == (True,)
    await connection.execute("UPDATE t SET n = 1")
    cursor = await connection.execute("SELECT big FROM t")
    [(big,)] = await cursor.fetchall()
    assert await told(log_database, "t") == [
        ("create", ["1"], f'{{"id":1,"n":0,"big":"{big}"}}'),
        ("update", ["1"], f'{{"id":1,"n":1,"big":"{big}"}}'),
    ]


async def test_merge_with_every_branch_at_once(connection: Connection, log_database: str) -> None:
    await make(connection, "t (a int, b text, v int, PRIMARY KEY (b, a))")
    await connection.execute("INSERT INTO t VALUES (1, 'x', 0), (2, 'x', 0)")
    await connection.execute(
        "MERGE INTO t USING (VALUES (1, 'x'), (2, 'x'), (3, 'x')) s (a, b) ON t.a = s.a AND t.b = s.b"
        " WHEN MATCHED AND s.a = 1 THEN UPDATE SET v = 9 WHEN MATCHED THEN DELETE"
        " WHEN NOT MATCHED THEN INSERT VALUES (s.a, s.b, 7)"
    )
    found = await told(log_database, "t")
    assert [key for _, key, _ in found[:2]] == [["x", "1"], ["x", "2"]]
    assert sorted(found[2:]) == [
        ("create", ["x", "3"], '{"a":3,"b":"x","v":7}'),
        ("delete", ["x", "2"], None),
        ("update", ["x", "1"], '{"a":1,"b":"x","v":9}'),
    ]


async def test_cascades_are_changes_of_the_table_that_they_reach(connection: Connection, log_database: str) -> None:
    await make(
        connection,
        "parents (id int PRIMARY KEY)",
        "owned (id int PRIMARY KEY, parent int REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE)",
        "linked (id int PRIMARY KEY, parent int REFERENCES parents ON DELETE SET NULL ON UPDATE CASCADE)",
    )
    await connection.execute("INSERT INTO parents VALUES (1)")
    for table in ("owned", "linked"):
        await connection.execute(f"INSERT INTO {table} VALUES (10, 1)".encode())
    await connection.execute("UPDATE parents SET id = 2")
    await connection.execute("DELETE FROM parents")
    assert [(kind, key) for kind, key, _ in await told(log_database, "parents")] == [
        ("create", ["1"]),
        ("delete", ["1"]),
        ("create", ["2"]),
        ("delete", ["2"]),
    ]
    shared = [("create", ["10"], '{"id":10,"parent":1}'), ("update", ["10"], '{"id":10,"parent":2}')]
    assert await told(log_database, "owned") == [*shared, ("delete", ["10"], None)]
    assert await told(log_database, "linked") == [*shared, ("update", ["10"], '{"id":10,"parent":null}')]


async def test_a_key_that_cascades_is_a_delete_and_a_create(connection: Connection, log_database: str) -> None:
    await make(
        connection,
        "parents (id int PRIMARY KEY)",
        "lines (parent int REFERENCES parents ON UPDATE CASCADE, n int, PRIMARY KEY (parent, n))",
    )
    await connection.execute("INSERT INTO parents VALUES (1)")
    await connection.execute("INSERT INTO lines VALUES (1, 7)")
    await connection.execute("UPDATE parents SET id = 2")
    assert [(kind, key) for kind, key, _ in await told(log_database, "lines")] == [
        ("create", ["1", "7"]),
        ("delete", ["1", "7"]),
        ("create", ["2", "7"]),
    ]


async def test_copy_and_truncate_cascade(connection: Connection, log_database: str) -> None:
    await make(connection, "parents (id int PRIMARY KEY)", "lines (id int PRIMARY KEY, parent int REFERENCES parents)")
    for table, row in (("parents", (1,)), ("lines", (5, 1))):
        async with connection.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN".encode()) as copy:
            await copy.write_row(row)
    await connection.execute("TRUNCATE parents CASCADE")
    for table, key in (("parents", "1"), ("lines", "5")):
        first, last = await changes(log_database, table)
        assert (first.change_type.value, first.key.components[0].value) == ("create", key)
        assert last.change_type.value == "truncate"
