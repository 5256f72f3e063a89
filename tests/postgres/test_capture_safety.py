"""Who owns a watched table, or a type of it, gains nothing: nothing of theirs runs as capture's role."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from psycopg import errors, sql

from tests.postgres.conftest import Connection
from tests.postgres.roles import login
from tests.postgres.test_watch import rows, watch


async def write(connection: Connection, *statements: str) -> None:
    for statement in statements:
        await connection.execute(statement.encode())


async def one(connection: Connection, query: str) -> object:
    row = await (await connection.execute(query.encode())).fetchone()
    assert row is not None
    return row[0]


SPY = """
CREATE FUNCTION shop.spied(what text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO shop.spies VALUES (what, current_user);
    RETURN 'spied';
END $$;
"""
"""Notes in whose name it was called. Whoever calls it may write there."""


@asynccontextmanager
async def owned_schema(dsn: str, admin: Connection, name: str) -> AsyncIterator[Connection]:
    """A session of a plain login that owns the schema `shop` and has no other right."""
    async with login(dsn, name) as owner_dsn:
        owner = sql.Identifier(name)
        await admin.execute(sql.SQL("CREATE SCHEMA shop AUTHORIZATION {}").format(owner))
        async with await psycopg.AsyncConnection.connect(owner_dsn, autocommit=True) as session:
            await write(
                session,
                "CREATE TABLE shop.spies (what text, who name)",
                "GRANT USAGE ON SCHEMA shop TO public",
                "GRANT INSERT ON shop.spies TO public",
                SPY,
            )
            yield session


@pytest.fixture
async def admin(log_database: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def owner(log_database: str, admin: Connection) -> AsyncIterator[Connection]:
    name = "owner_of_" + str(admin.info.dbname)
    async with owned_schema(log_database, admin, name) as session:
        yield session


async def spied_as_others(admin: Connection) -> list[tuple[str, str]]:
    """Who ran the owner's functions, but himself."""
    cursor = await admin.execute(
        "SELECT DISTINCT what, who::text FROM shop.spies"
        " WHERE who <> (SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'shop')"
    )
    return [(what, who) for what, who in await cursor.fetchall()]


TYPES = """
CREATE TYPE shop.mood AS ENUM ('sad', 'glad');
CREATE TYPE shop.pair AS (mood shop.mood, number int);
CREATE TYPE shop.span AS RANGE (subtype = shop.mood);
CREATE FUNCTION shop.checked(anyelement) RETURNS boolean LANGUAGE sql AS $$ SELECT shop.spied('a check') IS NOT NULL $$;
CREATE DOMAIN shop.checked_mood AS shop.mood CHECK (shop.checked(value));
CREATE DOMAIN shop.checked_text AS text CHECK (shop.checked(value));
"""


def cast(number: int, source: str, target: str) -> str:
    """A cast that whoever needs one makes unasked."""
    return f"""
        CREATE FUNCTION shop.cast_{number}({source}) RETURNS {target} LANGUAGE sql
            AS $$ SELECT to_json(length(shop.spied('{source} as {target}')))::text::{target} $$;
        CREATE CAST ({source} AS {target}) WITH FUNCTION shop.cast_{number} AS IMPLICIT
    """


CASTS = [
    (source, target)
    for source in ("shop.mood", "shop.mood[]", "shop.pair", "shop.span", "shop.checked_text[]")
    for target in ("json", "jsonb", "text", "int")
]


def operator(name: str, type_: str) -> str:
    """An operator that a hostile search_path would put in the place of PostgreSQL's own."""
    function = f"shop.operator_{'_'.join(str(ord(character)) for character in name)}"
    return f"""
        CREATE FUNCTION {function}({type_}, {type_}) RETURNS boolean LANGUAGE sql
            AS $$ SELECT shop.spied('{type_} {name} {type_}') IS NULL $$;
        CREATE OPERATOR shop.{name} (LEFTARG = {type_}, RIGHTARG = {type_}, FUNCTION = {function})
    """


OPERATORS = [(name, type_) for name in ("=", "<>", ">") for type_ in ("shop.mood", "text", "bigint", "int")]
FUNCTIONS = """
CREATE FUNCTION shop.row_to_json(anyelement) RETURNS json LANGUAGE sql AS $$ SELECT to_json(shop.spied('rows')) $$;
CREATE FUNCTION shop.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT shop.spied('setting') $$;
CREATE FUNCTION shop.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT now() FROM shop.spied('clock') $$;
"""
TABLE = """
CREATE TABLE shop.orders (
    id shop.mood, part shop.checked_text NOT NULL, pair shop.pair, moods shop.mood[], spans shop.span,
    checked shop.checked_mood, list shop.checked_text[], at timestamptz DEFAULT now(), PRIMARY KEY (id)
)"""
INSERT = """
INSERT INTO shop.orders VALUES
    ('sad', 'p', ROW('glad'::shop.mood, 1), '{sad,glad}', '[sad,glad)', 'glad', ARRAY['x']::shop.checked_text[])
"""
NESTED = """
CREATE FUNCTION shop.again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE shop.orders SET part = 'again' WHERE part = 'nested';
    RETURN NULL;
END $$;
CREATE TRIGGER again AFTER UPDATE ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.again()
"""


async def everything_is_written(owner: Connection) -> None:
    """The usual way, keys that change, statements within statements, an altered table, and a clearing."""
    await write(
        owner,
        INSERT,
        "UPDATE shop.orders SET part = 'q'",
        "UPDATE shop.orders SET id = 'glad'",
        "UPDATE shop.orders SET part = 'nested'",
        "BEGIN; UPDATE shop.orders SET part = 'nested'; UPDATE shop.orders SET id = 'sad'; COMMIT",
        "ALTER TABLE shop.orders RENAME moods TO humours",
        "ALTER TABLE shop.orders ADD later shop.mood DEFAULT 'sad'",
        "UPDATE shop.orders SET part = 'r'",
        "DELETE FROM shop.orders",
        "TRUNCATE shop.orders",
    )


@pytest.mark.parametrize("options", ["", ", always => true"], ids=["statement", "row"])
@pytest.mark.req("BX-11")
async def test_nothing_that_the_owner_of_a_table_or_type_supplies_runs_as_capture(
    admin: Connection, owner: Connection, options: str
) -> None:
    await write(owner, TYPES, FUNCTIONS, TABLE)
    await write(owner, *(cast(number, *of) for number, of in enumerate(CASTS)), *(operator(*of) for of in OPERATORS))
    feed = await watch(admin, "'shop.orders', partition_key => '{part}'" + options)
    await write(owner, NESTED)
    await write(
        owner,
        "SET search_path = shop, pg_catalog, public",
        "CREATE TEMP TABLE new_rows (x int); CREATE TEMP TABLE old_rows (x int)",
        "CREATE FUNCTION pg_temp.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$",
    )
    await everything_is_written(owner)
    await admin.execute("SELECT changefeed.check_feeds()")
    await everything_is_written_again(owner)
    assert await spied_as_others(admin) == []
    images = [image for (image,) in await rows(admin, feed, "image::jsonb") if image]
    assert images[0]["moods"] == "{sad,glad}"  # type: ignore[index]
    assert images[0]["pair"] == "(glad,1)"  # type: ignore[index]
    assert not [op for (op,) in await rows(admin, feed, "op") if op == "stopped"]


async def everything_is_written_again(owner: Connection) -> None:
    await write(
        owner,
        "INSERT INTO shop.orders (id, part) VALUES ('sad', 'p')",
        "UPDATE shop.orders SET id = 'glad', part = 'nested'",
        "DELETE FROM shop.orders",
    )


CONSTANT = """
CREATE FUNCTION shop.constant(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM shop.spied('a constant');
    RETURN 1;
END $$
"""
"""Who plans a query of a table runs such a call in an expression of it, where no cache has its result."""


@pytest.mark.parametrize("options", ["", ", always => true"], ids=["statement", "row"])
@pytest.mark.parametrize(
    "expression",
    [
        "CREATE STATISTICS shop.mine ON (shop.constant(1) + id), part FROM shop.orders",
        "CREATE INDEX mine ON shop.orders ((shop.constant(1) + id))",
        "CREATE INDEX mine ON shop.orders (part) WHERE shop.constant(1) = id",
    ],
    ids=["statistics", "index", "predicate"],
)
@pytest.mark.req("BX-11")
async def test_capture_does_not_look_at_a_table_whose_expressions_call_what_the_owner_supplies(
    admin: Connection, owner: Connection, expression: str, options: str
) -> None:
    await write(owner, CONSTANT, "CREATE TABLE shop.orders (id int PRIMARY KEY, part text NOT NULL)")
    feed = await watch(admin, "'shop.orders'" + options)
    await write(owner, NESTED, expression)
    states = "SELECT state, code FROM changefeed.feed_states()"
    assert await (await admin.execute(states)).fetchall() == [("drifted", "table_expression")]
    # Where it need not look it goes on, also after an alteration.
    await write(owner, "INSERT INTO shop.orders VALUES (1, 'p')", "ALTER TABLE shop.orders ADD more int")
    await write(owner, "UPDATE shop.orders SET id = 2", "UPDATE shop.orders SET part = 'nested'")
    assert await spied_as_others(admin) == []
    assert [op for (op,) in await rows(admin, feed, "op")] == ["upsert", "delete", "upsert", "upsert", "stopped"]
    await write(admin, "ALTER FUNCTION shop.constant OWNER TO CURRENT_USER", "SELECT changefeed.check_feeds()")
    assert await (await admin.execute(states)).fetchall() == [("capturing", None)]
    await write(owner, "UPDATE shop.orders SET part = 'nested'")
    assert [op for (op,) in await rows(admin, feed, "op")][5:] == ["upsert", "upsert"]


@pytest.mark.req("BX-11")
async def test_no_constraint_of_the_owner_runs_as_capture(admin: Connection, owner: Connection) -> None:
    check = "CHECK (id > shop.constant(1) - 9)"
    await write(owner, CONSTANT, f"CREATE TABLE shop.orders (id int PRIMARY KEY, part text, {check})")
    await watch(admin, "'shop.orders'")
    await write(owner, NESTED, "SET constraint_exclusion = on", "INSERT INTO shop.orders VALUES (1, 'p')")
    await write(owner, "UPDATE shop.orders SET part = 'nested'")
    assert await spied_as_others(admin) == []
    assert await one(owner, "SHOW constraint_exclusion") == "on"


@pytest.mark.req("BX-11")
async def test_the_owner_reads_and_deletes_nothing_by_a_cast_of_his(admin: Connection, owner: Connection) -> None:
    """The attack that showed it: an enum, a cast to JSON with a function, and an insert."""
    await write(admin, "CREATE SCHEMA private", "CREATE TABLE private.secrets AS SELECT 'secret' AS text")
    await write(
        owner,
        "CREATE TYPE shop.mood AS ENUM ('sad')",
        """CREATE FUNCTION shop.attack(shop.mood) RETURNS json LANGUAGE plpgsql AS $$ BEGIN
            DELETE FROM changefeed_log.log_1;
            RETURN to_json((SELECT text FROM private.secrets));
        END $$""",
        "CREATE CAST (shop.mood AS json) WITH FUNCTION shop.attack",
        "CREATE TABLE shop.orders (id int PRIMARY KEY, mood shop.mood)",
    )
    feed = await watch(admin, "'shop.orders'")
    await write(owner, "INSERT INTO shop.orders VALUES (1, 'sad')", "INSERT INTO shop.orders VALUES (2, 'sad')")
    assert await rows(admin, feed, "image") == [('{"id":1,"mood":"sad"}',), ('{"id":2,"mood":"sad"}',)]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM changefeed_log.log_1",
        "UPDATE changefeed_log.log_1 SET key = ''",
        "TRUNCATE changefeed_log.log_1",
        "SELECT * FROM changefeed_log.log_1",
        "INSERT INTO changefeed_log.tick_1 DEFAULT VALUES",
        "SELECT setval('changefeed_log.seq_1', 1)",
        "UPDATE changefeed.feeds SET name = 'x'",
        "CREATE FUNCTION changefeed_log.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE FUNCTION changefeed.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TABLE changefeed_log.mine (a int)",
        "CREATE OR REPLACE FUNCTION changefeed_log.capture_1_insert() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "SELECT * FROM private.secrets",
        "INSERT INTO orders VALUES (2)",
        "SELECT changefeed.create_capture_function(1, 'x', '', '')",
        "SELECT changefeed.adopt_log(1)",
        "SELECT changefeed.begin_epoch(1)",
        "SET ROLE changefeed_owner",
        "CREATE ROLE mine",
    ],
)
@pytest.mark.req("BX-11")
async def test_the_role_of_capture_can_do_nothing_but_append_and_read_watched_tables(
    admin: Connection, log_database: str, statement: str
) -> None:
    await write(
        admin,
        "CREATE SCHEMA private",
        "CREATE TABLE private.secrets (a int)",
        "CREATE TABLE orders (id int PRIMARY KEY)",
    )
    await watch(admin)
    name = "capture_of_" + str(admin.info.dbname)
    async with (
        login(log_database, name, "changefeed_capture") as dsn,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as session,
    ):
        await session.execute("SELECT * FROM orders")
        with pytest.raises(errors.InsufficientPrivilege):
            await session.execute(statement.encode())


@pytest.mark.req("BX-11")
async def test_one_feed_that_cannot_be_renewed_is_its_own_state_and_nobody_elses(admin: Connection) -> None:
    await write(admin, "CREATE TABLE bad (id int PRIMARY KEY)", "CREATE TABLE good (id int PRIMARY KEY)")
    await watch(admin, "'bad'")
    good = await watch(admin, "'good'")
    await write(
        admin,
        """CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity LIKE '%capture_1_%') THEN
                RAISE EXCEPTION 'no functions here';
            END IF;
        END $$""",
        "CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('CREATE FUNCTION') EXECUTE FUNCTION refuse()",
        "ALTER TABLE bad ADD more int",
        "ALTER TABLE good ADD more int",
        "SELECT changefeed.check_feeds()",
    )
    states = "SELECT name, state, code FROM changefeed.feed_states()"
    assert await (await admin.execute(states)).fetchall() == [
        ("public.bad", "drifted", "renewal_failed"),
        ("public.good", "capturing", None),
    ]
    await write(admin, "INSERT INTO bad VALUES (1, 2)", "INSERT INTO good VALUES (1, 2)")
    assert await rows(admin, good, "image") == [('{"id":1,"more":2}',)]
    assert await rows(admin, 1, "image") == [('{"id":1,"more":2}',)]
    await write(admin, "DROP EVENT TRIGGER refuse", "SELECT changefeed.check_feeds()")
    assert {state for _, state, _ in await (await admin.execute(states)).fetchall()} == {"capturing"}


async def test_a_before_trigger_that_changes_a_key_unseen_is_seen(admin: Connection) -> None:
    await write(
        admin,
        "CREATE TABLE orders (id int PRIMARY KEY, note text)",
        "CREATE FUNCTION moves() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN new.id := new.id + 10; RETURN new; END'",
    )
    feed = await watch(admin)
    await write(admin, "INSERT INTO orders VALUES (1)", "UPDATE orders SET note = 'n'")
    await write(admin, "CREATE TRIGGER moves BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION moves()")
    await write(
        admin, "UPDATE orders SET note = 'm'", "SELECT changefeed.check_feeds()", "UPDATE orders SET note = 'o'"
    )
    assert await rows(admin, feed, "op, key") == [
        ("upsert", "1"),
        ("upsert", "1"),
        ("delete", "1"),
        ("upsert", "11"),
        ("delete", "11"),
        ("upsert", "21"),
    ]


async def test_a_collation_that_takes_two_texts_for_one_does_not_hide_a_key(admin: Connection) -> None:
    folded = "CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
    try:
        await write(admin, folded)
    except errors.FeatureNotSupported:
        return  # this server was built without such collations
    await write(admin, "CREATE TABLE orders (id text COLLATE folded PRIMARY KEY)")
    feed = await watch(admin)
    await write(admin, "INSERT INTO orders VALUES ('a')", "UPDATE orders SET id = 'A'")
    assert await rows(admin, feed, "op, key") == [("upsert", "a"), ("delete", "a"), ("upsert", "A")]
