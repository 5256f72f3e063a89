"""Where nobody is a superuser, as on managed services: a login that may create roles migrates, and capture works."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from changefeed_gateway.core.errors import HistoryGap
from changefeed_gateway.core.model import After, Beginning
from changefeed_gateway.providers.postgres.embedded.server import EmbeddedPostgres
from changefeed_gateway.providers.postgres.operations.doctor import examine
from changefeed_gateway.providers.postgres.operations.migrations import migrate
from changefeed_gateway.providers.postgres.retention import run as retention
from tests.databases import BINARIES, PARAMETERS, server_directory
from tests.postgres.conftest import Connection
from tests.postgres.reading import address, open_provider, page_read, read_all
from tests.postgres.shop import QUIET, keys


@pytest.fixture(scope="module")
async def cluster() -> AsyncIterator[str]:
    """Connection string of its superuser; the roles of the change feeds are not made yet."""
    with server_directory() as directory:
        async with EmbeddedPostgres(Path(directory) / "data", parameters=PARAMETERS, binaries=BINARIES) as server:
            yield server.dsn


async def connect(dsn: str) -> Connection:
    return await psycopg.AsyncConnection.connect(dsn, autocommit=True)


async def check_stopped_after_1(dsn: str, why: str) -> None:
    """What was captured is delivered, and whoever reads on is told that there is more."""
    async with open_provider(dsn, QUIET) as provider:
        feed = await provider.open_feed(address("public.orders"))
        first = await provider.read_page(feed, page_read(Beginning()))
        assert keys(first) == [1]
        with pytest.raises(HistoryGap, match=why):
            await provider.read_page(feed, page_read(After(first.cursor)))


@asynccontextmanager
async def managed(cluster: str) -> AsyncIterator[tuple[str, Connection]]:
    """A database, and a login that owns it and may create roles; gone at the end, the roles of the feeds too."""
    async with await connect(cluster) as superuser:
        await superuser.execute("CREATE ROLE managed LOGIN CREATEROLE")
        await superuser.execute("CREATE DATABASE shop OWNER managed")
        try:
            yield make_conninfo(cluster, dbname="shop", user="managed"), superuser
        finally:
            await superuser.execute("DROP DATABASE shop WITH (FORCE)")
            for role in (
                "gateway",
                "changefeed_operator",
                "changefeed_reader",
                "changefeed_owner",
                "changefeed_capture",
                "managed",
            ):
                await superuser.execute(f"DROP ROLE IF EXISTS {role}".encode())


async def lines(dsn: str) -> dict[str, str]:
    """What doctor says, by subject; what is wrong with its remedy."""
    return {
        finding.subject: f"WRONG {finding.remedy}" if finding.remedy else finding.detail
        async for finding in examine(dsn)
    }


async def test_a_login_that_may_create_roles_migrates_and_runs_everything(cluster: str) -> None:
    async with managed(cluster) as (dsn, _), await connect(dsn) as owner:
        assert await migrate(dsn, documents=True)
        assert await migrate(dsn, documents=True) == []
        await owner.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
        await owner.execute("SELECT changefeed.watch('orders')")
        await owner.execute("INSERT INTO orders VALUES (1), (2)")
        await owner.execute("UPDATE orders SET id = 3 WHERE id = 2")
        await owner.execute("CREATE ROLE gateway LOGIN; GRANT changefeed_reader TO gateway")
        async with open_provider(make_conninfo(dsn, user="gateway"), QUIET) as provider:
            feed = await provider.open_feed(address("public.orders"))
            assert keys((await read_all(provider, feed))[0]) == [1, 2, 2, 3]
            documents = await provider.open_feed(address("documents"))
            await owner.execute("INSERT INTO documents.workspaces (name) VALUES ('w')")
            await owner.execute(
                "INSERT INTO documents.files (workspace_id, title) SELECT id, 'a' FROM documents.workspaces"
            )
            assert len((await provider.read_page(documents, page_read(Beginning()))).changes) == 1
        await owner.execute("SELECT changefeed.split_partition('public.orders', '0-4095')")
        assert not [feed.problem for feed in await retention.run(dsn) if feed.problem]
        assert not [line for line in (await lines(dsn)).values() if line.startswith("WRONG")]


async def test_doctor_says_what_such_a_login_could_not_give(cluster: str) -> None:
    async with managed(cluster) as (dsn, superuser), await connect(dsn) as owner:
        await migrate(dsn)
        assert "is held to policies (no BYPASSRLS)" in (await lines(dsn))["role of capture"]
        await owner.execute("CREATE TABLE orders (id int PRIMARY KEY)")
        await owner.execute("SELECT changefeed.watch('orders')")
        await owner.execute("ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
        await owner.execute("INSERT INTO orders VALUES (1)")
        assert "ALTER ROLE changefeed_capture BYPASSRLS, as a superuser" in (await lines(dsn))["role of public.orders"]
        await superuser.execute("ALTER ROLE changefeed_capture BYPASSRLS")
        found = await lines(dsn)
        assert "role of public.orders" not in found
        assert found["role of capture"].endswith("passes by policies")


async def test_who_may_pass_by_policies_gives_it_on(cluster: str) -> None:
    """From 16 on whoever has the right; before, superusers only."""
    async with managed(cluster) as (dsn, superuser):
        await superuser.execute("ALTER ROLE managed BYPASSRLS")
        await migrate(dsn)
        said = (await lines(dsn))["role of capture"]
        assert ("passes by policies" in said) is (superuser.info.server_version >= 160000)


@pytest.mark.req("P1", "P5")
async def test_a_policy_that_capture_cannot_pass_by(cluster: str) -> None:
    """It is in the way where capture looks into the table: once after an alteration, and inside other triggers."""
    async with managed(cluster) as (dsn, _), await connect(dsn) as owner:
        await migrate(dsn)
        await owner.execute("CREATE TABLE orders (id int PRIMARY KEY)")
        await owner.execute("SELECT changefeed.watch('orders')")
        await owner.execute("ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
        await owner.execute("INSERT INTO orders VALUES (1)")
        await owner.execute("ALTER TABLE orders ADD COLUMN note text")
        await owner.execute("INSERT INTO orders VALUES (2)")
        await check_stopped_after_1(dsn, "a policy may hide rows from capture")
        await owner.execute("SELECT changefeed.check_feeds()")
        await owner.execute(
            "CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF new.id < 100 THEN INSERT INTO orders VALUES (new.id + 100); END IF; RETURN new; END $$;"
            "CREATE TRIGGER more AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION more();"
        )
        await owner.execute("INSERT INTO orders VALUES (3)")
        marks = await owner.execute("SELECT image FROM changefeed_log.log_1 WHERE op = 'stopped'")
        assert await marks.fetchall() == [("a policy may hide rows from capture",)] * 2


@pytest.mark.parametrize(
    ("hide", "table", "show"),
    [
        (
            "CREATE SCHEMA archive; ALTER TABLE orders SET SCHEMA archive",
            "archive.orders",
            "GRANT USAGE ON SCHEMA archive TO changefeed_capture",
        ),
        (
            "REVOKE SELECT ON orders FROM changefeed_capture",
            "public.orders",
            "GRANT SELECT ON orders TO changefeed_capture",
        ),
    ],
    ids=["moved", "revoked"],
)
@pytest.mark.req("P1", "P5")
async def test_a_table_out_of_sight_stops_the_feed_where_capture_has_to_look_and_fails_no_write(
    cluster: str, hide: str, table: str, show: str
) -> None:
    async with managed(cluster) as (dsn, _), await connect(dsn) as owner:
        await migrate(dsn)
        await owner.execute("CREATE TABLE orders (id int PRIMARY KEY)")
        await owner.execute("SELECT changefeed.watch('orders')")
        await owner.execute("INSERT INTO orders VALUES (1)")
        await owner.execute(hide.encode())
        found = await lines(dsn)
        assert f"grant select on table {table} to changefeed_capture" in found["capture of public.orders"]
        await owner.execute(f"ALTER TABLE {table} ADD note text".encode())
        await owner.execute(f"INSERT INTO {table} VALUES (2)".encode())
        await check_stopped_after_1(dsn, "capture may not read the table")
        await owner.execute(show.encode())
        await owner.execute(f"INSERT INTO {table} VALUES (3)".encode())
        assert not (await lines(dsn))["capture of public.orders"].startswith("WRONG stopped")
