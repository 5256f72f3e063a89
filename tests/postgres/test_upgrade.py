"""A database of before, with data in it, and today's migrations and gateway."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from changefeed_gateway.core.errors import NotFound
from changefeed_gateway.core.model import After, Beginning, LogicalPartition, PartitionId, PhysicalPartition
from changefeed_gateway.providers.postgres.cursor import Position, encode_position
from changefeed_gateway.providers.postgres.operations.migrations import MigrationState, migrate, migration_status
from changefeed_gateway.providers.postgres.retention import run as retention
from tests.databases import PostgresForTests
from tests.postgres.conftest import Connection
from tests.postgres.dumps import run
from tests.postgres.reading import address, open_provider, page_read, read_all
from tests.postgres.shop import QUIET, keys

REGROUPED = Path(__file__).parent / "upgrade" / "regrouped.sql"
"""All steps of before they were regrouped, in the order in which they were applied."""

BEFORE_THEY_WERE_CORRECTED = {
    4: "ac70f9799e67189ae88570e4d24a0c217c5d67fce3a65a3f8023bed2a528aa51",
    5: "208015f0e579efbb3fb5c7ba48e254dbc1d314645c16aae442927e3180785423",
    7: "f6af527b2be9f57242c184e365fb51c60b5778ba6dd0eff3daa66da7e9fa20f8",
}


@pytest.fixture
async def older(postgres: PostgresForTests) -> object:
    """A database of that time: a watched table, one that rows are captured of, documents, and some history."""
    name = "older"
    await postgres.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    dsn = postgres.dsn(name)
    status, said = await run(postgres, "psql", "-q", "-v", "ON_ERROR_STOP=1", "-1", "-f", str(REGROUPED), dsn)
    assert status == 0, said
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for statement in (
            "CREATE TABLE orders (id int PRIMARY KEY, space int NOT NULL, note text)",
            "CREATE TABLE lines (id int PRIMARY KEY) PARTITION BY HASH (id)",
            "CREATE TABLE lines_0 PARTITION OF lines FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
            "SELECT changefeed.watch('orders', partition_key => '{space}')",
            "SELECT changefeed.watch('lines')",
            "INSERT INTO orders SELECT n, n % 3, 'old' FROM generate_series(1, 30) n",
            "TRUNCATE lines",
            "INSERT INTO lines VALUES (1)",
            "INSERT INTO documents.workspaces (name) VALUES ('w')",
            "INSERT INTO documents.files (workspace_id, title) SELECT id, 'a' FROM documents.workspaces",
            "CALL changefeed.tick_all()",
            "INSERT INTO orders VALUES (31, 1, 'old')",
            "SELECT * FROM changefeed.tick(2)",
            "SELECT changefeed.split_partition('public.orders', '0-255')",
        ):
            await connection.execute(statement.encode())
    yield dsn
    await postgres.drop(dsn)


async def generators(connection: Connection) -> set[object]:
    found = await connection.execute("SELECT generator = changefeed.generator() FROM changefeed.feeds")
    return {same for (same,) in await found.fetchall()}


@pytest.mark.req("DB-12", "P1", "P6")
async def test_an_older_database_keeps_its_history_and_gets_the_new_capture(older: str) -> None:
    assert await migrate(older)
    assert {status.state for status in await migration_status(older)} == {MigrationState.APPLIED}
    assert await migrate(older) == []
    async with (
        await psycopg.AsyncConnection.connect(older, autocommit=True) as connection,
        open_provider(older, QUIET) as provider,
    ):
        assert await generators(connection) == {True}
        await connection.execute("UPDATE orders SET note = 'new' WHERE id = 2")
        await connection.execute("UPDATE orders SET id = 100 WHERE id = 3")
        await connection.execute("INSERT INTO lines VALUES (2)")
        await connection.execute("UPDATE documents.files SET title = 'b'")
        orders = await provider.open_feed(address("public.orders"))
        changes, _ = await read_all(provider, orders)
        assert keys(changes) == [*range(1, 32), 2, 3, 100]
        one, _ = await read_all(provider, orders, page_read(Beginning(), scope=LogicalPartition("2")))
        assert keys(one) == [n for n in range(1, 31) if n % 3 == 2] + [2]
        # A token of then for the whole is good; one for a physical partition is refused.
        ticks = "SELECT at FROM changefeed_log.tick_2 WHERE id = 2"
        [(at,)] = await (await connection.execute(ticks)).fetchall()
        page = await provider.read_page(orders, page_read(After(encode_position(Position(2), at))))
        assert keys(page)[0] == 31
        # The ticks of then know of no day floor; the first one of now began it, and what follows lies in its day.
        for number in (200, 201):
            await connection.execute("INSERT INTO orders VALUES (%s, 0)", (number,))
            await connection.execute("SELECT changefeed.tick(2)")
        ticks = "SELECT count(day) >= 2, count(DISTINCT day), count(*) - count(day) >= 2 FROM changefeed_log.tick_2"
        assert await (await connection.execute(ticks)).fetchall() == [(True, 1, True)]
        changes, _ = await read_all(provider, orders)
        assert keys(changes)[-2:] == [200, 201]
        with pytest.raises(NotFound, match="0-255"):
            await provider.read_page(orders, page_read(Beginning(), scope=PhysicalPartition(PartitionId("0-255"))))
        (partition,) = await provider.list_partitions(orders)
        scope = PhysicalPartition(partition.partition_id)
        assert len((await read_all(provider, orders, page_read(Beginning(), scope=scope)))[0]) == len(changes)
        lines = await provider.open_feed(address("public.lines"))
        for key, kinds in (("1", ["TRUNCATE", "CREATE"]), ("2", ["TRUNCATE", "CREATE"]), ("3", ["TRUNCATE"])):
            one, _ = await read_all(provider, lines, page_read(Beginning(), scope=LogicalPartition(key)))
            assert [change.change_type.name for change in one] == kinds
        for found, count in ((lines, 3), (await provider.open_feed(address("documents")), 2)):
            assert len((await read_all(provider, found))[0]) == count


IN_ANY_ORDER = (
    ("UPDATE documents.files SET title = title || 'a'", "DELETE FROM documents.file_tags"),
    (
        "INSERT INTO documents.file_tags SELECT id, gen_random_uuid() FROM documents.files",
        "UPDATE documents.files SET title = 'b'",
    ),
    ("SELECT FROM documents.files", "UPDATE documents.files SET title = 'c'"),
    ("DELETE FROM documents.runs", "UPDATE documents.files SET title = 'd'"),
)
"""Transactions of writers, which wait between the two."""


@asynccontextmanager
async def written_to(dsn: str, *, pause: float) -> AsyncIterator[None]:
    """While several write, with a pause in seconds between two transactions; none of them fails."""
    stop = asyncio.Event()
    begun = asyncio.Barrier(len(IN_ANY_ORDER) + 1)

    async def write(first: str, second: str) -> int:
        done = 0
        async with await psycopg.AsyncConnection.connect(dsn) as writer:
            while not stop.is_set():
                await writer.execute(first.encode())
                if not done:
                    await begun.wait()
                await writer.execute("SELECT pg_sleep(0.01)")
                await writer.execute(second.encode())
                await writer.commit()
                await writer.execute("SELECT pg_sleep(%s * random())", (2 * pause,))
                await writer.commit()
                done += 1
        return done

    writers = [asyncio.create_task(write(*statements)) for statements in IN_ANY_ORDER]
    await begun.wait()
    try:
        yield
    finally:
        stop.set()
    assert min(await asyncio.gather(*writers)) > 0


@pytest.mark.req("P1", "P8")
async def test_an_older_database_is_taken_over_while_documents_are_written_and_no_writer_fails(older: str) -> None:
    async with written_to(older, pause=0.1):
        assert await migrate(older)


@pytest.mark.req("P1", "P8")
async def test_an_index_of_documents_is_changed_under_writers_without_a_pause_and_none_fails(
    database: str, connection: Connection
) -> None:
    """Those who have read a file and go on to write it too, who wait behind who waits for them."""
    await connection.execute(
        "DROP INDEX documents.files_id_workspace_id_kind;"
        "CREATE UNIQUE INDEX files_id_workspace_id ON documents.files (id, workspace_id);"
        "DELETE FROM changefeed.migrations WHERE set = 'documents' AND version = 3;"
        "INSERT INTO documents.workspaces (name) VALUES ('w');"
        "INSERT INTO documents.files (workspace_id, title) SELECT id, 'a' FROM documents.workspaces"
    )
    async with written_to(database, pause=0):
        assert [migration.file for migration in await migrate(database)] == ["documents/tables/0003_kind.sql"]


@pytest.mark.req("P1", "P8")
async def test_capture_is_renewed_under_writers_at_full_speed_without_a_lost_change(log_database: str) -> None:
    """As after an upgrade of the gateway: another generator, and nobody who writes waits or is missed."""
    stop = asyncio.Event()

    async def write(number: int) -> int:
        done = 0
        async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as writer:
            await writer.execute("SET lock_timeout = '2s'")
            while not stop.is_set():
                await writer.execute("UPDATE orders SET note = note + 1 WHERE id = %s", (number,))
                done += 1
        return done

    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection:
        await connection.execute("CREATE TABLE orders (id int PRIMARY KEY, note int)")
        await connection.execute("INSERT INTO orders SELECT n, 0 FROM generate_series(1, 4) n")
        await connection.execute("SELECT changefeed.watch('orders')")
        await connection.execute("GRANT TRIGGER ON orders TO changefeed_owner")
        triggers: set[bool] = set()
        writers = [asyncio.create_task(write(number)) for number in range(1, 5)]
        for version in range(20):
            await connection.execute(
                "UPDATE changefeed.functions SET checksum = %s WHERE topic = 'capture'", (f"version {version}",)
            )
            assert await generators(connection) == {False}
            await connection.execute("UPDATE changefeed.feeds SET triggers = 'older'")
            await connection.execute("SELECT changefeed.check_feeds()")
            assert await generators(connection) == {True}
            found = await connection.execute("SELECT triggers = changefeed.trigger_maker() FROM changefeed.feeds")
            triggers |= {made for (made,) in await found.fetchall()}
            await asyncio.sleep(0)
        stop.set()
        done = await asyncio.gather(*writers)
        logged = await connection.execute(
            "SELECT key::int, count(*), max((image::json ->> 'note')::int) FROM changefeed_log.log_1"
            " GROUP BY 1 ORDER BY 1"
        )
        assert await logged.fetchall() == [(number, count, count) for number, count in enumerate(done, start=1)]
        assert min(done) > 0
        assert True in triggers


OLDER_REKEY = """
    CREATE OR REPLACE TRIGGER changefeed_1_rekey AFTER UPDATE ON orders FOR EACH ROW
    WHEN (old.id IS DISTINCT FROM new.id) EXECUTE FUNCTION changefeed_log.capture_1_rekey();
    UPDATE changefeed.feeds SET triggers = 'older'
"""


async def rekey_trigger(connection: Connection) -> str:
    query = "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'changefeed_1_rekey'"
    [(definition,)] = await (await connection.execute(query.encode())).fetchall()
    return str(definition)


@pytest.mark.req("DB-12")
async def test_migrating_makes_the_triggers_of_existing_feeds_anew(older: str) -> None:
    await migrate(older)
    async with await psycopg.AsyncConnection.connect(older, autocommit=True) as connection:
        rekey = "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'changefeed_2_rekey'"
        [(definition,)] = await (await connection.execute(rekey.encode())).fetchall()
        assert "AFTER UPDATE OF" in definition
        states = await connection.execute("SELECT DISTINCT state, code FROM changefeed.feed_states()")
        assert await states.fetchall() == [("capturing", None)]


@pytest.mark.req("DB-12", "P8")
async def test_older_triggers_are_made_anew_where_that_is_allowed_and_told_of_where_not(log_database: str) -> None:
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection:
        await connection.execute("CREATE TABLE orders (id int PRIMARY KEY)")
        await connection.execute("SELECT changefeed.watch('orders')")
        today = await rekey_trigger(connection)
        await connection.execute(OLDER_REKEY.encode())
        await connection.execute("SELECT changefeed.check_feeds()")
        assert await rekey_trigger(connection) != today
        states = await connection.execute("SELECT state, code, remedy FROM changefeed.feed_states()")
        [(state, code, remedy)] = await states.fetchall()
        assert (state, code) == ("drifted", "triggers_older")
        assert "changefeed.watch again" in remedy
        await connection.execute("GRANT TRIGGER ON orders TO changefeed_owner")
        # Not while somebody writes for long: he would wait, and all others behind.
        async with await psycopg.AsyncConnection.connect(log_database) as writer:
            await writer.execute("INSERT INTO orders VALUES (1)")
            await connection.execute("SELECT changefeed.check_feeds()")
            assert await rekey_trigger(connection) != today
            await writer.commit()
        await connection.execute("SELECT changefeed.check_feeds()")
        assert await rekey_trigger(connection) == today
        await connection.execute("REVOKE TRIGGER ON orders FROM changefeed_owner")
        await connection.execute(OLDER_REKEY.encode())
        await connection.execute("SELECT changefeed.watch('orders')")
        assert await rekey_trigger(connection) == today


async def test_tick_functions_of_existing_feeds_are_renewed(log_database: str) -> None:
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection:
        await connection.execute("CREATE TABLE orders (id int PRIMARY KEY)")
        await connection.execute("SELECT changefeed.watch('orders')")
        await connection.execute(
            "DROP FUNCTION changefeed_log.make_tick_1;"
            " CREATE FUNCTION changefeed_log.make_tick_1(force boolean, arm boolean DEFAULT false,"
            " answered bigint DEFAULT NULL) RETURNS TABLE (id bigint, at timestamptz, last_seq bigint, xid text,"
            " snapshot text, topology bigint, made boolean, quiet boolean) LANGUAGE plpgsql"
            " AS 'BEGIN RAISE EXCEPTION ''of before''; END'"
        )
        await connection.execute("UPDATE changefeed.functions SET checksum = 'older' WHERE topic = 'ticks'")
        await migrate(log_database)
        await connection.execute("SELECT changefeed.tick(1)")


@pytest.mark.req("DB-12", "P8")
async def test_a_look_holds_up_the_writers_of_one_table_at_most(log_database: str) -> None:
    async with (
        await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection,
        await psycopg.AsyncConnection.connect(log_database) as looking,
    ):
        for table in ("one", "two", "three"):
            await connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY)".encode())
            await connection.execute("SELECT changefeed.watch(%s)", (table,))
            await connection.execute(f"GRANT TRIGGER ON {table} TO changefeed_owner".encode())
        await connection.execute("UPDATE changefeed.feeds SET triggers = 'older'")
        held = (
            "SELECT count(*) FROM pg_locks l JOIN changefeed.feeds f ON f.source::oid = l.relation"
            " WHERE l.mode = 'ShareRowExclusiveLock'"
        )
        for _ in range(3):
            await looking.execute("SELECT changefeed.check_feeds()")
            assert await (await connection.execute(held)).fetchall() == [(1,)]
            await looking.commit()
        left = "SELECT count(*) FROM changefeed.feeds WHERE triggers = 'older'"
        assert await (await connection.execute(left)).fetchall() == [(0,)]


@pytest.mark.req("DB-12")
async def test_a_feed_that_cannot_be_looked_at_keeps_no_other_from_being_renewed(log_database: str) -> None:
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection:
        for table in ("one", "two"):
            await connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY)".encode())
            await connection.execute("SELECT changefeed.watch(%s)", (table,))
            await connection.execute(f"GRANT TRIGGER ON {table} TO changefeed_owner".encode())
        await connection.execute("UPDATE changefeed.feeds SET triggers = 'older', generator = 'older'")
        # As of a catalog that another session changes in the midst of the look.
        await connection.execute(
            "CREATE OR REPLACE FUNCTION changefeed.may_be_null(source oid, number smallint) RETURNS boolean"
            " LANGUAGE plpgsql AS $$BEGIN IF source = 'public.one'::regclass THEN RAISE 'no such row'; END IF;"
            " RETURN false; END$$"
        )
        await connection.execute("SELECT changefeed.check_feeds()")
        renewed = (
            "SELECT triggers <> 'older' AND generator <> 'older', renewal_problem FROM changefeed.feeds ORDER BY name"
        )
        assert await (await connection.execute(renewed)).fetchall() == [(False, "P0001 no such row"), (True, None)]


@pytest.mark.req("DB-12", "P1")
async def test_whoever_commits_while_a_migration_waits_is_found_under_any_default_isolation(older: str) -> None:
    async with (
        await psycopg.AsyncConnection.connect(older) as writer,
        await psycopg.AsyncConnection.connect(older, autocommit=True) as connection,
    ):
        await connection.execute("ALTER DATABASE older SET default_transaction_isolation = 'repeatable read'")
        await writer.execute("INSERT INTO orders VALUES (40, 2, 'old')")
        migrating = asyncio.create_task(migrate(older))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
        async with asyncio.timeout(60):
            while await (await connection.execute(waiting)).fetchall() != [(1,)]:
                await connection.execute("SELECT pg_sleep(0.01)")
        await writer.commit()
        assert await migrating
    async with open_provider(older, QUIET) as provider:
        orders = await provider.open_feed(address("public.orders"))
        one, _ = await read_all(provider, orders, page_read(Beginning(), scope=LogicalPartition("2")))
        assert keys(one) == [*(n for n in range(1, 31) if n % 3 == 2), 40]


@pytest.mark.req("DB-12", "P1")
async def test_a_day_that_was_detached_during_a_migration_comes_back_with_todays_buckets(older: str) -> None:
    async with await psycopg.AsyncConnection.connect(older, autocommit=True) as connection:
        days = "SELECT DISTINCT tableoid::regclass::text FROM changefeed_log.log_2"
        [(day,)] = await (await connection.execute(days)).fetchall()
        await connection.execute(f"ALTER TABLE changefeed_log.log_2 DETACH PARTITION {day}".encode())
        await migrate(older)
        assert [feed.problem for feed in await retention.run(older)] == ["", "", ""]
        assert await (await connection.execute(days)).fetchall() == [(day,)]
    async with open_provider(older, QUIET) as provider:
        orders = await provider.open_feed(address("public.orders"))
        one, _ = await read_all(provider, orders, page_read(Beginning(), scope=LogicalPartition("2")))
        assert keys(one) == [n for n in range(1, 31) if n % 3 == 2]


@pytest.mark.req("DB-12")
async def test_a_table_that_was_dropped_and_a_publication_of_all_tables_keep_no_database_from_its_upgrade(
    older: str,
) -> None:
    async with await psycopg.AsyncConnection.connect(older, autocommit=True) as connection:
        await connection.execute("DROP TABLE orders")
        await connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        await migrate(older)
        states = await connection.execute("SELECT name, code FROM changefeed.feed_states()")
        assert await states.fetchall() == [
            ("documents", None),
            ("public.lines", None),
            ("public.orders", "table_dropped"),
        ]
    # A step that had been applied before it was corrected is no edited one.
    async with await psycopg.AsyncConnection.connect(older, autocommit=True) as connection:
        for version, checksum in BEFORE_THEY_WERE_CORRECTED.items():
            await connection.execute(
                "UPDATE changefeed.migrations SET checksum = %s WHERE set = 'log' AND version = %s", (checksum, version)
            )
    assert await migrate(older) == []
