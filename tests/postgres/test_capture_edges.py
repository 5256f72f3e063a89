"""Edges where a capture, a tick or a read could lose or disorder changes without a word."""

import asyncio
from datetime import timedelta

import psutil
import psycopg
import pytest
from psycopg.rows import TupleRow

from changefeed_gateway.providers.postgres.statements import Statements
from changefeed_gateway.providers.postgres.ticks.tick import ALL_DAYS
from tests.postgres.history import age
from tests.postgres.roles import login

Connection = psycopg.AsyncConnection[TupleRow]


async def _watch(connection: Connection, table: str) -> int:
    cursor = await connection.execute("SELECT changefeed.watch(%s)", (table,))
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


def _work(connection: Connection) -> float:
    """Seconds of CPU that the session's process has used: how busy the machine is does not show in them."""
    return sum(psutil.Process(connection.info.backend_pid).cpu_times()[:2])


async def _log(connection: Connection, feed: int) -> list[TupleRow]:
    cursor = await connection.execute(f"SELECT op, created, key, image FROM changefeed_log.log_{feed} ORDER BY seq")
    return await cursor.fetchall()


async def test_changes_of_the_transaction_that_watches_come_after_the_first_tick(
    connection: Connection, database: str
) -> None:
    async def busy(stop: asyncio.Event) -> None:
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as other:
            while not stop.is_set():
                await other.execute("SELECT pg_current_xact_id()")

    stop = asyncio.Event()
    task = asyncio.create_task(busy(stop))
    async with connection.transaction():
        await connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
        await connection.execute("SELECT pg_current_xact_id()")
        await asyncio.sleep(0.05)
        feed = await _watch(connection, "t")
        await connection.execute("INSERT INTO t VALUES (1)")
    stop.set()
    await task
    cursor = await connection.execute(
        "SELECT pg_visible_in_snapshot(l.xid, t.snapshot)"
        f" FROM changefeed_log.log_{feed} l, changefeed_log.tick_{feed} t"
    )
    assert await cursor.fetchall() == [(False,)]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_no_tick_under_a_level_that_does_not_see_the_tick_it_waited_for(
    connection: Connection, level: str
) -> None:
    await connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    feed = await _watch(connection, "t")
    await connection.execute(f"SET default_transaction_isolation = '{level}'")
    with pytest.raises(psycopg.errors.ActiveSqlTransaction):
        await connection.execute("SELECT changefeed.tick(%s)", (feed,))


async def test_a_row_changed_again_by_a_trigger_ends_as_it_is(connection: Connection) -> None:
    await connection.execute("""
        CREATE TABLE t (id int PRIMARY KEY, v int);
        CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            UPDATE t SET v = 2 WHERE id = new.id AND new.v = 1;
            DELETE FROM t WHERE id = new.id AND new.v = 9;
            RETURN NULL;
        END $$;
        CREATE TRIGGER again AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION again()
    """)
    feed = await _watch(connection, "t")
    await connection.execute("INSERT INTO t VALUES (1, 1)")
    assert (await _log(connection, feed))[-1] == ("upsert", True, "1", '{"id":1,"v":2}')
    await connection.execute("INSERT INTO t VALUES (2, 9)")
    assert [row[0] for row in await _log(connection, feed) if row[2] == "2"] == ["delete"]


async def test_a_key_equal_but_written_otherwise_is_another_key(connection: Connection) -> None:
    await connection.execute("CREATE TABLE t (id numeric PRIMARY KEY)")
    feed = await _watch(connection, "t")
    await connection.execute("INSERT INTO t VALUES (1.0)")
    await connection.execute("UPDATE t SET id = 1.00")
    assert [row[:3] for row in await _log(connection, feed)][1:] == [("delete", False, "1.0"), ("upsert", True, "1.00")]


async def test_watching_again_does_not_hide_that_a_trigger_is_missing(connection: Connection) -> None:
    await connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await _watch(connection, "t")
    await connection.execute("ALTER TABLE t DISABLE TRIGGER ALL")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        await _watch(connection, "t")


async def test_a_table_whose_changes_a_crash_empties_is_refused(connection: Connection) -> None:
    await connection.execute("CREATE UNLOGGED TABLE t (id int PRIMARY KEY)")
    with pytest.raises(psycopg.errors.WrongObjectType, match="unlogged"):
        await _watch(connection, "t")


async def test_a_table_with_a_column_that_no_trigger_sees_is_refused(connection: Connection) -> None:
    virtual = "CREATE TABLE t (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) VIRTUAL)"
    if connection.info.server_version < 180000:
        with pytest.raises(psycopg.errors.SyntaxError, match="VIRTUAL"):  # such columns came with PostgreSQL 18
            await connection.execute(virtual.encode())
        return
    await connection.execute(virtual.encode())
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="virtual"):
        await _watch(connection, "t")


async def test_a_look_does_not_cost_by_the_savepoints_of_others(connection: Connection, database: str) -> None:
    await connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    feed = await _watch(connection, "t")
    async with await psycopg.AsyncConnection.connect(database) as other:
        await other.execute("""
            DO $$ BEGIN FOR i IN 1..100000 LOOP
                BEGIN INSERT INTO t VALUES (i); EXCEPTION WHEN unique_violation THEN NULL; END;
            END LOOP; END $$
        """)
        await connection.execute("SELECT changefeed.tick(%s)", (feed,))
        before = _work(connection)
        for _ in range(20):
            await connection.execute("SELECT changefeed.tick(%s)", (feed,))
        assert _work(connection) - before < 0.2


@pytest.mark.parametrize(
    ("change", "events"),
    [
        ("UPDATE documents.file_tags SET tag = 'other'", 1),
        ("UPDATE documents.file_tags SET created_at = now()", 0),
        ("TRUNCATE documents.file_tags", 1),
        ("TRUNCATE documents.runs CASCADE", 1),
        (
            "UPDATE documents.runs SET input_file_version_id ="
            " (SELECT id FROM documents.file_versions ORDER BY version DESC LIMIT 1)",
            1,
        ),
        ("UPDATE documents.runs SET progress = 0.5", 0),
    ],
)
async def test_whatever_changes_a_documents_image_is_a_change(connection: Connection, change: str, events: int) -> None:
    await connection.execute("""
        INSERT INTO documents.workspaces (id, name) VALUES ('11111111-1111-1111-1111-111111111111', 'w');
        INSERT INTO documents.files (id, workspace_id, title)
            VALUES ('22222222-2222-2222-2222-222222222222', '11111111-1111-1111-1111-111111111111', 't');
        INSERT INTO documents.file_versions (file_id, version, byte_size, content_type)
            SELECT '22222222-2222-2222-2222-222222222222', v, 1, 'text/plain' FROM generate_series(1, 2) v;
        INSERT INTO documents.file_tags (file_id, tag) VALUES ('22222222-2222-2222-2222-222222222222', 'a');
        INSERT INTO documents.runs (input_file_version_id) SELECT id FROM documents.file_versions WHERE version = 1
    """)
    feed = 1
    before = len(await _log(connection, feed))
    await connection.execute(change)
    assert len(await _log(connection, feed)) - before == events


async def test_a_plan_made_for_one_run_fits_a_thousand(connection: Connection) -> None:
    await connection.execute("""
        INSERT INTO documents.workspaces (id, name) VALUES ('11111111-1111-1111-1111-111111111111', 'w');
        INSERT INTO documents.files (id, workspace_id, title)
            SELECT md5('f' || g)::uuid, '11111111-1111-1111-1111-111111111111', 't' FROM generate_series(1, 8000) g;
        INSERT INTO documents.file_versions (id, file_id, version, byte_size, content_type)
            SELECT md5('v' || g)::uuid, md5('f' || g)::uuid, 1, 1, 'x' FROM generate_series(1, 8000) g;
        INSERT INTO documents.runs (id, input_file_version_id)
            SELECT md5('r' || g)::uuid, md5('v' || g)::uuid FROM generate_series(1, 8000) g
    """)
    await connection.execute("UPDATE documents.runs SET status = 'a' WHERE id = md5('r1')::uuid")
    before = _work(connection)
    await connection.execute("UPDATE documents.runs SET status = 'b'")
    assert _work(connection) - before < 1.5


async def test_a_time_after_which_the_clock_stepped_back_starts_before_all_later_changes(
    connection: Connection,
) -> None:
    await connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    feed = await _watch(connection, "t")
    for _ in range(4):
        await connection.execute("SELECT changefeed.tick(%s, true)", (feed,))
    for tick, minute in enumerate((0, 5, 10, 2, 6), start=1):
        await connection.execute(
            f"UPDATE changefeed_log.tick_{feed} SET at = date_trunc('day', now()) + make_interval(mins => %s)"
            " WHERE id = %s",
            (minute, tick),
        )
    await connection.execute(
        f"UPDATE changefeed_log.tick_{feed} t SET reached ="
        f" (SELECT max(u.at) FROM changefeed_log.tick_{feed} u WHERE u.id <= t.id)"
    )
    statement = Statements.of_feed(feed, None).tick_at
    row = await (await connection.execute("SELECT date_trunc('day', now()) + interval '7 minutes'")).fetchone()
    assert row is not None
    found = await (await connection.execute(statement, {"time": row[0]})).fetchone()
    assert found is not None
    assert found[0] == 2


async def test_a_tick_keeps_the_time_that_a_clock_had_reached_before_it_stepped_back(connection: Connection) -> None:
    await connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    feed = await _watch(connection, "t")
    await age(connection, timedelta(hours=-1), feed)
    await connection.execute("SELECT changefeed.tick(%s, true)", (feed,))
    cursor = await connection.execute(
        f"SELECT new.at < old.at, new.reached = old.at FROM changefeed_log.tick_{feed} old"
        f" JOIN changefeed_log.tick_{feed} new ON (old.id, new.id) = (1, 2)"
    )
    assert await cursor.fetchall() == [(True, True)]


async def test_a_reader_of_one_key_hears_of_a_truncation(connection: Connection) -> None:
    await connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    feed = await _watch(connection, "t")
    await connection.execute("INSERT INTO t VALUES (1), (2)")
    await connection.execute("TRUNCATE t")
    cursor = await connection.execute("SELECT id, snapshot FROM changefeed.tick(%s)", (feed,))
    row = await cursor.fetchone()
    assert row is not None
    arguments = {
        "partition_key": "1",
        "base_xmax": "0",
        "to_snapshot": row[1],
        "base": 1,
        "finished": "{}",
        "after": 0,
        "after_finished": 0,
        "upper": 2**62,
        **ALL_DAYS._asdict(),
        "limit": 10,
    }
    cursor = await connection.execute(Statements.of_feed(feed, None).page_of_key, arguments)
    # The first row says which tables were read.
    _, *rows = await cursor.fetchall()
    assert [row[3] for row in rows] == ["upsert", "truncate"]


@pytest.mark.parametrize("table", ["t", "p"], ids=["statement", "row"])
async def test_what_triggers_of_a_truncate_write_is_there_after_it(connection: Connection, table: str) -> None:
    await connection.execute("""
        CREATE TABLE t (id int PRIMARY KEY, v int);
        CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY HASH (id);
        CREATE TABLE p_0 PARTITION OF p FOR VALUES WITH (MODULUS 1, REMAINDER 0);
        CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            EXECUTE format('INSERT INTO %I VALUES ($1, 7)', tg_table_name) USING tg_argv[0]::int;
            RETURN NULL;
        END $$
    """)
    # By name, one before capture and one after it.
    for name, number in (("a_first", 1), ("z_last", 2)):
        await connection.execute(f"CREATE TRIGGER {name} AFTER TRUNCATE ON {table} EXECUTE FUNCTION again({number})")
    feed = await _watch(connection, table)
    await connection.execute(f"INSERT INTO {table} VALUES (1, 5), (3, 5)")
    await connection.execute(f"TRUNCATE {table}")
    log = await _log(connection, feed)
    truncated = [row[0] for row in log].index("truncate")
    assert log[truncated + 1 :] == [
        ("upsert", True, "1", '{"id":1,"v":7}'),
        ("upsert", True, "2", '{"id":2,"v":7}'),
    ]


async def test_a_partition_key_that_no_trigger_sees_is_refused(connection: Connection) -> None:
    if connection.info.server_version < 180000:
        return  # such columns came with PostgreSQL 18, see test_a_table_with_a_column_that_no_trigger_sees_is_refused
    await connection.execute(
        "CREATE TABLE t (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) VIRTUAL NOT NULL)"
    )
    with pytest.raises(psycopg.errors.FeatureNotSupported, match=r"^partition_key: the column twice of public.t"):
        await connection.execute("SELECT changefeed.watch('t', partition_key => '{twice}', image => 'none')")


async def test_a_key_whose_older_rows_may_be_null_is_refused_or_stops(connection: Connection) -> None:
    if connection.info.server_version < 180000:
        return  # NOT NULL that is not validated came with PostgreSQL 18
    await connection.execute("CREATE TABLE t (id int PRIMARY KEY, space int, note text)")
    await connection.execute("INSERT INTO t VALUES (1, NULL)")
    unchecked = "ALTER TABLE t ADD CONSTRAINT there NOT NULL space NOT VALID"
    await connection.execute(unchecked.encode())
    watch = "SELECT changefeed.watch('t', partition_key => '{space}')"
    with pytest.raises(
        psycopg.errors.InvalidParameterValue, match=r"^partition_key: the column space of public.t may be null"
    ):
        await connection.execute(watch.encode())
    await connection.execute("UPDATE t SET space = 1; ALTER TABLE t VALIDATE CONSTRAINT there")
    await connection.execute(watch.encode())
    await connection.execute("ALTER TABLE t ALTER space DROP NOT NULL")
    await connection.execute("UPDATE t SET space = NULL")
    await connection.execute(unchecked.encode())
    await connection.execute("DELETE FROM t")
    states = await connection.execute("SELECT code FROM changefeed.feed_states() WHERE name = 'public.t'")
    assert await states.fetchall() == [("key_column_nullable",)]


async def test_an_unlogged_partition_stops_the_feed(connection: Connection) -> None:
    await connection.execute("CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id)")
    await connection.execute("CREATE TABLE t_0 PARTITION OF t FOR VALUES FROM (0) TO (10)")
    feed = await _watch(connection, "t")
    await connection.execute("CREATE UNLOGGED TABLE t_1 PARTITION OF t FOR VALUES FROM (10) TO (20)")
    await connection.execute("INSERT INTO t VALUES (1), (11)")
    assert {row[0] for row in await _log(connection, feed)} == {"stopped"}
    states = await connection.execute("SELECT code FROM changefeed.feed_states() WHERE name = 'public.t'")
    assert await states.fetchall() == [("partition_unlogged",)]


async def test_a_transaction_older_than_the_feed_is_to_be_tried_again(connection: Connection, database: str) -> None:
    await connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    async with await psycopg.AsyncConnection.connect(database) as older:
        await older.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await older.execute("SELECT 1")
        feed = await _watch(connection, "t")
        with pytest.raises(psycopg.errors.SerializationFailure, match="was watched after this transaction took"):
            await older.execute("INSERT INTO t VALUES (1)")
        await older.rollback()
        await older.execute("INSERT INTO t VALUES (1)")
    assert [row[2] for row in await _log(connection, feed)] == ["1"]


async def test_all_that_changes_a_log_may_do_so_where_everything_is_published(connection: Connection) -> None:
    await connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    await connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    feed = await _watch(connection, "t")
    await connection.execute("INSERT INTO t VALUES (1)")
    await connection.execute("SELECT changefeed.split_partition('public.t', '0-4095')")
    await connection.execute(f"UPDATE changefeed_log.log_{feed} SET changed_at = changed_at + interval '1 day'")
    await connection.execute("SELECT changefeed.date_anew(%s)", (feed,))
    await connection.execute("SELECT changefeed.begin_epoch(%s)", (feed,))
    late = await connection.execute(f"SELECT count(*) FROM changefeed_log.log_{feed} WHERE changed_at > now()")
    assert await late.fetchall() == [(0,)]


@pytest.mark.parametrize("call", ["begin_epoch", "date_anew"])
async def test_the_log_is_begun_or_dated_anew_by_who_sees_all_of_it(connection: Connection, call: str) -> None:
    await connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    feed = await _watch(connection, "t")
    await connection.execute("SET default_transaction_isolation = 'repeatable read'")
    with pytest.raises(psycopg.errors.ActiveSqlTransaction, match="READ COMMITTED"):
        await connection.execute(f"SELECT changefeed.{call}(%s)", (feed,))


async def test_a_feed_begins_anew_where_nobody_may_make_temporary_tables(connection: Connection, database: str) -> None:
    await connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
    feed = await _watch(connection, "t")
    await connection.execute("INSERT INTO t VALUES (1)")
    name = str(connection.info.dbname)
    await connection.execute(f"REVOKE TEMPORARY ON DATABASE {name} FROM public")
    async with (
        login(database, "operator_of_" + name, "changefeed_operator") as dsn,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as operator,
    ):
        await operator.execute("SELECT changefeed.begin_epoch(%s)", (feed,))
    assert [row[2] for row in await _log(connection, feed)] == ["1"]
