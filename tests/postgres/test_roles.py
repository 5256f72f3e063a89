"""What each role can do, and that it can do nothing else."""

import asyncio
import json
from datetime import timedelta

import psycopg
import pytest
from psycopg import errors, sql

from changefeed_gateway.core.model import After, Beginning
from changefeed_gateway.providers.postgres.errors import OperationError
from changefeed_gateway.providers.postgres.operations.doctor import examine
from changefeed_gateway.providers.postgres.operations.feeds import feed_states, unwatch, watch
from changefeed_gateway.providers.postgres.operations.migration_files import MigrationError
from changefeed_gateway.providers.postgres.operations.migrations import migrate
from changefeed_gateway.providers.postgres.provider import PostgresOptions
from changefeed_gateway.providers.postgres.retention import run as retention
from changefeed_gateway.providers.postgres.retention.plan import Action
from tests.databases import PostgresForTests
from tests.postgres.conftest import Connection
from tests.postgres.reading import address, open_provider, page_read, read_all
from tests.postgres.roles import login
from tests.postgres.shop import QUIET, keys, open_shop

_FOREIGN = """
    SELECT format('%s %s', o.kind, o.name) FROM (
        SELECT 'relation', c.oid::regclass::text, c.relowner FROM pg_class c
        WHERE c.relnamespace IN ('changefeed'::regnamespace, 'changefeed_log'::regnamespace)
        UNION ALL
        SELECT 'routine', p.oid::regprocedure::text, p.proowner FROM pg_proc p
        WHERE p.pronamespace IN ('changefeed'::regnamespace, 'changefeed_log'::regnamespace)
            AND NOT ((p.prorettype = 'trigger'::regtype OR p.proname ~ '^(items|places)_[0-9]+$')
                AND p.proowner = 'changefeed_capture'::regrole)
        UNION ALL
        SELECT 'schema', n.nspname, n.nspowner FROM pg_namespace n WHERE n.nspname IN ('changefeed', 'changefeed_log')
    ) o (kind, name, owner) WHERE o.owner <> 'changefeed_owner'::regrole
"""

_OPEN_TO_ALL = """
    SELECT p.oid::regprocedure::text FROM pg_proc p
    WHERE p.pronamespace IN ('changefeed'::regnamespace, 'changefeed_log'::regnamespace) AND p.prosecdef
        AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0)
"""

_NOT_READABLE = """
    SELECT c.oid::regclass::text FROM pg_class c
    WHERE c.relnamespace = 'changefeed_log'::regnamespace AND c.relkind IN ('r', 'p')
        AND NOT has_table_privilege('changefeed_reader', c.oid, 'SELECT')
"""


async def texts(connection: Connection, query: str) -> list[str]:
    return [text for (text,) in await (await connection.execute(query.encode())).fetchall()]


async def make_days(connection: Connection, dsn: str) -> None:
    """Take days away, and let retention make them anew."""
    days = await texts(
        connection,
        "SELECT c.relname FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid"
        " WHERE c.relnamespace = 'changefeed_log'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^log_1_[0-9]{8}$'"
        " ORDER BY 1 DESC LIMIT 2",
    )
    for day in days:
        await connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("changefeed_log", day)))
    (feed,) = await retention.run(dsn)
    assert not feed.problem
    assert any(step.action is Action.CREATE for step in feed.steps)


async def test_everything_belongs_to_the_owner_and_is_readable(database: str, connection: Connection) -> None:
    await make_days(connection, database)
    await connection.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    await connection.execute("SELECT changefeed.watch('orders')")
    assert await texts(connection, _FOREIGN) == []
    assert await texts(connection, _OPEN_TO_ALL) == []
    assert await texts(connection, _NOT_READABLE) == []


async def test_a_reader_runs_the_gateway(log_database: str) -> None:
    options = PostgresOptions(idle_cadence=timedelta(milliseconds=20))
    async with (
        open_shop(log_database) as shop,
        login(log_database, "gateway_login", "changefeed_reader") as dsn,
        open_provider(dsn, options) as provider,
    ):
        feed = await provider.open_feed(address("public.orders"))
        page = await provider.read_page(feed, page_read(Beginning()))
        for number in range(1, 4):
            waiting = asyncio.create_task(provider.read_page(feed, page_read(After(page.cursor), wait=30)))
            await shop.insert(number)
            page = await waiting
            assert keys(page) == [number]
        assert len(await provider.list_partitions(feed)) == 1


async def test_a_reader_reads_documents_by_their_function_only(database: str, connection: Connection) -> None:
    async with login(database, "gateway_login", "changefeed_reader") as dsn, open_provider(dsn, QUIET) as provider:
        await connection.execute("INSERT INTO documents.workspaces (name) VALUES ('w')")
        await connection.execute(
            "INSERT INTO documents.files (workspace_id, title) SELECT id, 'a' FROM documents.workspaces"
        )
        feed = await provider.open_feed(address("documents"))
        changes, _ = await read_all(provider, feed)
        assert [json.loads(str(change.item))["title"] for change in changes] == ["a"]
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as reader:
            with pytest.raises(errors.InsufficientPrivilege):
                await reader.execute("SELECT * FROM documents.files")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO changefeed_log.log_1 (xid, changed_at, bucket, created, op, partition_key, key)"
        " VALUES ('1', now(), 0, true, 'upsert', '', '')",
        "UPDATE changefeed_log.log_1 SET key = ''",
        "DELETE FROM changefeed_log.log_1",
        "TRUNCATE changefeed_log.log_1",
        "INSERT INTO changefeed_log.tick_1 SELECT * FROM changefeed_log.tick_1",
        "DELETE FROM changefeed_log.tick_1",
        "SELECT nextval('changefeed_log.seq_1')",
        "SELECT setval('changefeed_log.seq_1', 1)",
        "DROP TABLE changefeed_log.log_1",
        "CREATE TABLE changefeed_log.mine (a int)",
        "CREATE TABLE changefeed.mine (a int)",
        "CREATE TABLE public.mine (a int)",
        "SELECT * FROM orders",
        "SELECT * FROM mirror",
        "INSERT INTO orders VALUES (1, 1)",
        "UPDATE changefeed.feeds SET name = 'x'",
        "DELETE FROM changefeed.feeds",
        "UPDATE changefeed.partitions SET low = 1",
        "SELECT changefeed.watch('mirror')",
        "SELECT changefeed.unwatch('orders')",
        "SELECT changefeed.drop_feed(1)",
        "SELECT changefeed.set_retention('public.orders', '1 day')",
        "SELECT changefeed.split_partition('public.orders', '0-4095')",
        "SELECT changefeed.create_feed('x', null, 'none', null, '{a}', '{string}', '{a}', 'poll')",
        "SELECT changefeed.create_capture_function(1, 'x', '', '')",
        "SELECT changefeed.hand_over()",
        "SET ROLE changefeed_owner",
        "SET ROLE changefeed_operator",
        "ALTER TABLE orders DISABLE TRIGGER ALL",
    ],
)
async def test_a_reader_can_do_nothing_else(log_database: str, statement: str) -> None:
    async with open_shop(log_database) as shop, login(log_database, "gateway_login", "changefeed_reader") as dsn:
        await shop.connection.execute("CREATE TABLE mirror (id int PRIMARY KEY)")
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as reader:
            with pytest.raises(errors.InsufficientPrivilege):
                await reader.execute(statement.encode())


async def test_a_reader_cannot_write_into_the_log_by_a_trigger_of_its_own(log_database: str) -> None:
    async with (
        open_shop(log_database),
        login(log_database, "gateway_login", "changefeed_reader") as dsn,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as reader,
    ):
        await reader.execute("CREATE TEMPORARY TABLE forged (id int, space int, note text)")
        with pytest.raises(errors.InsufficientPrivilege):
            await reader.execute(
                "CREATE TRIGGER t AFTER INSERT ON forged REFERENCING NEW TABLE AS new_rows"
                " FOR EACH STATEMENT EXECUTE FUNCTION changefeed_log.capture_1_insert()"
            )


async def test_a_readers_retention_run_changes_nothing_and_names_the_role(log_database: str) -> None:
    async with open_shop(log_database) as shop, login(log_database, "gateway_login", "changefeed_reader") as dsn:
        before = await texts(shop.connection, "SELECT name FROM changefeed.days(1) ORDER BY 1")
        with pytest.raises(OperationError, match="grant changefeed_operator to gateway_login"):
            await retention.run(dsn)
        assert await texts(shop.connection, "SELECT name FROM changefeed.days(1) ORDER BY 1") == before


async def test_an_operator_watches_its_table_and_runs_retention(log_database: str) -> None:
    async with (
        await psycopg.AsyncConnection.connect(log_database, autocommit=True) as admin,
        login(log_database, "operator_login", "changefeed_operator") as dsn,
    ):
        await admin.execute("CREATE SCHEMA shop AUTHORIZATION operator_login")
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as operator:
            await operator.execute("CREATE TABLE shop.orders (id int PRIMARY KEY)")
            await watch(dsn, "shop.orders")
            await operator.execute("INSERT INTO shop.orders VALUES (1)")
            await make_days(admin, dsn)
            await retention.set_retention(dsn, "shop.orders", timedelta(days=2))
            await operator.execute("SELECT changefeed.split_partition('shop.orders', '0-4095')")
            assert await texts(admin, _FOREIGN) == []
            assert await texts(admin, _NOT_READABLE) == []
            assert await texts(admin, "SELECT key FROM changefeed_log.log_1") == ["1"]
            await operator.execute("SELECT changefeed.unwatch('shop.orders')")
            assert await texts(admin, "SELECT name FROM changefeed.feeds") == []


async def test_no_operator_that_somebody_made_runs_in_a_session_of_ours(log_database: str) -> None:
    """Where all may make objects in `public`, as in a database from before PostgreSQL 15."""
    made = """
        CREATE FUNCTION public.taken(oid, regclass) RETURNS bool LANGUAGE plpgsql
            AS $$ BEGIN RAISE EXCEPTION 'a foreign operator runs'; END $$;
        CREATE FUNCTION public.taken(text, integer) RETURNS text LANGUAGE plpgsql
            AS $$ BEGIN RAISE EXCEPTION 'a foreign operator runs'; END $$;
        CREATE FUNCTION public.taken(name, text) RETURNS bool LANGUAGE plpgsql
            AS $$ BEGIN RAISE EXCEPTION 'a foreign operator runs'; END $$;
        CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = regclass, FUNCTION = public.taken);
        CREATE OPERATOR public.|| (LEFTARG = text, RIGHTARG = integer, FUNCTION = public.taken);
        CREATE OPERATOR public.~ (LEFTARG = name, RIGHTARG = text, FUNCTION = public.taken)
    """
    async with open_shop(log_database, options=QUIET) as shop:
        await shop.connection.execute(made.encode())
        await shop.connection.execute("CREATE TABLE others (id int PRIMARY KEY)")
        assert await watch(log_database, "others") == "public.others"
        await shop.insert(1)
        await shop.tick()
        assert keys(await shop.page(Beginning())) == [1]
        assert [feed.problem for feed in await retention.run(log_database)] == ["", ""]
        assert {state.name for state in await feed_states(log_database)} == {"public.orders", "public.others"}
        assert all(finding.healthy for finding in [found async for found in examine(log_database)])
        assert await unwatch(log_database, "others") == "public.others"
        assert await migrate(log_database, documents=True)


async def test_an_operator_runs_nothing_as_who_migrated(database: str) -> None:
    """What the owner of the feeds may replace runs as whoever calls it, and as the owner of the feeds at most."""
    replaced = """
        CREATE OR REPLACE FUNCTION changefeed.clearing_body(feed integer, doorbell text, rest_sql text DEFAULT '')
        RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'runs as %', current_user; END $$
    """
    async with (
        login(database, "operator_login", "changefeed_operator") as dsn,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as operator,
    ):
        await operator.execute(replaced.encode())
        for call in ("documents.create_capture(1)", "changefeed.create_capture(1)"):
            with pytest.raises(errors.RaiseException, match=r"runs as (operator_login|changefeed_owner)\b"):
                await operator.execute(f"SELECT {call}".encode())


async def test_an_operator_cannot_watch_the_table_of_another(log_database: str) -> None:
    async with (
        await psycopg.AsyncConnection.connect(log_database, autocommit=True) as admin,
        login(log_database, "operator_login", "changefeed_operator") as dsn,
    ):
        await admin.execute("CREATE TABLE orders (id int PRIMARY KEY)")
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as operator:
            with pytest.raises(errors.InsufficientPrivilege):
                await operator.execute("SELECT changefeed.watch('orders')")
        assert await texts(admin, "SELECT name FROM changefeed.feeds") == []


@pytest.mark.parametrize(
    "statement",
    ["SELECT * FROM changefeed.feeds", "SELECT changefeed.tick(1)", "SELECT * FROM changefeed_log.log_1"],
)
async def test_a_stranger_can_nothing(log_database: str, statement: str) -> None:
    async with (
        open_shop(log_database),
        login(log_database, "stranger_login") as dsn,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as stranger,
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            await stranger.execute(statement.encode())


async def test_capture_sees_rows_that_a_policy_hides(log_database: str) -> None:
    """A statement inside another one's trigger is captured by looking at the table."""
    async with open_shop(log_database) as shop:
        await shop.connection.execute(
            "ALTER TABLE orders ENABLE ROW LEVEL SECURITY;"
            "CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF new.id < 100 THEN INSERT INTO orders VALUES (new.id + 100, 0); END IF; RETURN new; END $$;"
            "CREATE TRIGGER more AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION more();"
        )
        await shop.insert(1)
        changes, _ = await read_all(shop.provider, shop.feed)
        assert sorted(keys(changes)) == [1, 101]


async def test_two_databases_of_a_cluster_migrate_at_once(postgres: PostgresForTests) -> None:
    """Whoever comes second finds the roles, or waits for them."""
    names = ("roles_one", "roles_two")
    for name in names:
        await postgres.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        applied = await asyncio.gather(*(migrate(postgres.dsn(name), documents=True) for name in names))
        assert len(applied[0]) == len(applied[1]) > 0
    finally:
        for name in names:
            await postgres.drop(postgres.dsn(name))


async def test_without_the_right_to_make_roles_the_migration_says_who_must(postgres: PostgresForTests) -> None:
    dsn = await postgres.fresh("template1")
    try:
        async with login(dsn, "weak_login") as weak:
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as admin:
                await admin.execute(
                    sql.SQL("GRANT CREATE ON DATABASE {} TO weak_login").format(sql.Identifier(admin.info.dbname))
                )
            with pytest.raises(MigrationError, match=r"tables/0002_roles\.sql: the roles of the change feeds"):
                await migrate(weak)
    finally:
        await postgres.drop(dsn)
