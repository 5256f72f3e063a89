"""Who owns a watched table, or a type of it, gains nothing: nothing of theirs runs as capture's role."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psycopg
import pytest
from psycopg import errors, sql

from changefeed_gateway.providers.postgres.errors import OperationError
from changefeed_gateway.providers.postgres.operations.copy import source_items
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


# --- Snapshots, which capture's role reads


def items_after(key: str) -> str:
    return f"SELECT key, problem FROM changefeed_log.items_1({key}, 5, 1000, 1000, null, false)"


@pytest.mark.parametrize("type_", ["uuid", "text"])
@pytest.mark.req("BX-11")
async def test_no_temporary_type_of_a_reader_is_taken_for_one_of_postgresqls_own(
    admin: Connection, log_database: str, type_: str
) -> None:
    key = "'11111111-1111-1111-1111-111111111111'"
    await write(admin, f"CREATE TABLE orders (id {type_} PRIMARY KEY)", f"INSERT INTO orders VALUES ({key})")
    await watch(admin)
    name = "reader_of_" + str(admin.info.dbname)
    async with (
        login(log_database, name, "changefeed_reader") as dsn,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as session,
    ):
        await write(
            session,
            "CREATE TEMP TABLE spies (who name)",
            "GRANT INSERT ON spies TO public",
            """CREATE FUNCTION pg_temp.spied() RETURNS boolean LANGUAGE plpgsql AS $$
            BEGIN
                INSERT INTO pg_temp.spies VALUES (current_user);
                RETURN true;
            END $$""",
            f"CREATE DOMAIN pg_temp.{type_} AS pg_catalog.{type_} CHECK (pg_temp.spied())",
            items_after(key),
            f"SELECT changefeed_log.places_1(ARRAY[{key}], {key}, {key})",
        )
        assert await one(session, "SELECT array_agg(DISTINCT who) FROM spies") is None


async def problem_of_items(session: Connection, key: str) -> str | None:
    found = await (await session.execute(items_after(key).encode())).fetchall()
    return next((problem for _, problem in found if problem), None)


SUPPLIED = "an expression of the table calls shop.constant(integer), which is not a superuser's"


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("CREATE STATISTICS shop.mine ON (shop.constant(1) + id), part FROM shop.orders", SUPPLIED),
        ("CREATE INDEX mine ON shop.orders ((shop.constant(1) + id))", SUPPLIED),
        ("CREATE INDEX mine ON shop.orders_1 (part) WHERE shop.constant(1) = id", SUPPLIED),
        # Nobody evaluates it.
        ("ALTER TABLE shop.orders_1 ADD CHECK (id > shop.constant(1) - 9)", None),
    ],
    ids=["statistics", "index", "predicate", "check"],
)
@pytest.mark.req("BX-11")
async def test_a_snapshot_runs_nothing_that_the_owner_of_the_table_supplies(
    admin: Connection, owner: Connection, log_database: str, expression: str, problem: str | None
) -> None:
    await write(
        owner,
        CONSTANT,
        "CREATE TABLE shop.orders (id int PRIMARY KEY, part text NOT NULL) PARTITION BY RANGE (id)",
        "CREATE TABLE shop.orders_1 PARTITION OF shop.orders FOR VALUES FROM (0) TO (9)",
    )
    await watch(admin, "'shop.orders'")
    await write(owner, "INSERT INTO shop.orders VALUES (1, 'p'), (2, 'p')")
    places = "SELECT changefeed_log.places_1('{1}', '1', '2')"
    # Once before, so that the plans of this session are made.
    await write(admin, items_after("null"), items_after("'1'"), places)
    await write(owner, expression)
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as another:
        for session in (admin, another):
            problems = [await problem_of_items(session, key) for key in ("null", "'1'")]
            with suppress(errors.ObjectNotInPrerequisiteState):
                await session.execute(places.encode())
            assert await spied_as_others(admin) == []
            assert problems == [problem] * 2
    if problem:
        with pytest.raises(OperationError, match=r"shop\.constant"):
            await source_items(log_database, "shop.orders")


# --- Settings of who writes

SETTINGS = """
    SELECT name FROM pg_settings
    WHERE context = 'user' AND vartype = 'bool' AND name !~ 'read_only|^(log|debug|trace|exit)_|zero_damaged|ignore_'
    ORDER BY name
"""
VALUES = """
    '11111111-1111-1111-1111-111111111111', 'a"' || chr(92), '2026-01-02T03:04:05Z', 0.1, '1 day', 'x', ARRAY[1, NULL],
    '{"a": null}'
"""


@pytest.mark.req("BX-11", "P1")
async def test_no_switch_that_a_writer_may_turn_changes_what_is_captured(admin: Connection, log_database: str) -> None:
    await write(
        admin,
        "CREATE TABLE orders (id uuid PRIMARY KEY, note text, at timestamptz, amount float8, took interval,"
        " bytes bytea, list int[], doc jsonb)",
    )
    feed = await watch(admin)
    switches = [name for (name,) in await (await admin.execute(SETTINGS.encode())).fetchall()]
    assert "quote_all_identifiers" in switches
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True, prepare_threshold=None) as writer:
        for switch in [None, *switches]:
            if switch is not None:
                # Functions and their plans are made anew, under the setting.
                await write(writer, "DISCARD ALL")
                on = await one(writer, f"SELECT current_setting('{switch}')") == "on"
                await write(writer, f"SET {switch} = {'off' if on else 'on'}")
            await write(writer, f"INSERT INTO orders VALUES ({VALUES})")
            await write(writer, "DELETE FROM orders")
    found = await rows(admin, feed, "op, key, image")
    assert len(found) == 2 * len(switches) + 2
    assert len(set(found)) == 2


@pytest.mark.req("BX-11")
async def test_capture_may_not_read_a_table_that_is_not_watched_any_more(admin: Connection) -> None:
    await write(admin, "CREATE TABLE orders (id int PRIMARY KEY)")
    await watch(admin)
    may_read = "SELECT has_table_privilege('changefeed_capture', 'orders', 'select')"
    assert await one(admin, may_read) is True
    await write(admin, "SELECT changefeed.unwatch('orders')")
    assert await one(admin, may_read) is False
