"""What doctor finds wrong, one fault at a time, and the remedy it names."""

from collections.abc import AsyncIterator
from datetime import timedelta

import psycopg
import pytest

from changefeed_gateway.providers.postgres import surroundings
from changefeed_gateway.providers.postgres.doctor import examine
from changefeed_gateway.providers.postgres.finding import Finding
from tests.postgres.roles import login
from tests.postgres.shop import Shop, open_shop
from tests.postgres.storm import connect


@pytest.fixture
async def shop(log_database: str) -> AsyncIterator[Shop]:
    async with open_shop(log_database) as shop:
        yield shop


async def wrong(dsn: str) -> dict[str, Finding]:
    """What is not healthy, by its subject; each says what to do."""
    found = {finding.subject: finding async for finding in examine(dsn) if not finding.healthy}
    assert all(finding.remedy for finding in found.values())
    return found


async def test_a_database_in_order_has_nothing_wrong(shop: Shop) -> None:
    assert await wrong(shop.dsn) == {}
    subjects = {finding.subject async for finding in examine(shop.dsn)}
    assert {"role", "replication role", "oldest transaction", "prepared transactions", "doorbell"} <= subjects
    assert {"capture of public.orders", "sequence of public.orders", "days of public.orders"} <= subjects


@pytest.mark.parametrize(
    ("fault", "subject", "remedy"),
    [
        ("ALTER TABLE orders DISABLE TRIGGER changefeed_1_insert", "capture of public.orders", "enable trigger"),
        ("DROP TRIGGER changefeed_1_delete ON orders", "capture of public.orders", "unwatch"),
        ("ALTER SEQUENCE changefeed_log.seq_1 CACHE 10", "sequence of public.orders", "CACHE 1"),
        ("SELECT setval('changefeed_log.seq_1', 9000000000000000000)", "sequence of public.orders", "watch it again"),
    ],
)
async def test_a_fault_of_a_feed(shop: Shop, fault: str, subject: str, remedy: str) -> None:
    await shop.connection.execute(fault.encode())
    assert remedy in (await wrong(shop.dsn))[subject].remedy


async def test_days_that_run_out(shop: Shop) -> None:
    cursor = await shop.connection.execute(
        "SELECT format('DROP TABLE changefeed_log.%I', c.relname) FROM pg_class c"
        " JOIN pg_inherits i ON i.inhrelid = c.oid WHERE c.relname ~ '^log_1_[0-9]{8}$'"
        " AND c.relname > to_char(now() AT TIME ZONE 'UTC', '\"log_1_\"YYYYMMDD')"
    )
    for (statement,) in await cursor.fetchall():
        await shop.connection.execute(statement.encode())
    await shop.connection.execute(
        "DROP TABLE changefeed_log.log_1_future; SET timezone = 'UTC';"
        "DO $$ BEGIN EXECUTE format('CREATE TABLE changefeed_log.log_1_future PARTITION OF changefeed_log.log_1"
        " FOR VALUES FROM (%L) TO (MAXVALUE)', current_date + 1); END $$"
    )
    found = await wrong(shop.dsn)
    assert "changefeed retention run" in found["days of public.orders"].remedy


async def test_a_transaction_that_stays_open(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "_OLD", timedelta(0))
    async with await connect(shop.dsn) as writer:
        await writer.execute("INSERT INTO orders VALUES (1, 0)")
        found = await wrong(shop.dsn)
        assert f"pg_terminate_backend({writer.info.backend_pid})" in found["oldest transaction"].remedy


async def test_a_prepared_transaction_that_was_forgotten(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "_OLD", timedelta(0))
    async with await connect(shop.dsn) as writer:
        await writer.execute("CREATE TABLE other (id int)")
        await writer.execute("PREPARE TRANSACTION 'it''s forgotten'")
    try:
        found = await wrong(shop.dsn)
        assert "ROLLBACK PREPARED 'it''s forgotten'" in found["prepared transactions"].remedy
    finally:
        await shop.connection.execute("ROLLBACK PREPARED 'it''s forgotten'")


async def test_a_policy_that_capture_cannot_pass(shop: Shop) -> None:
    await shop.connection.execute("ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
    assert await wrong(shop.dsn) == {}
    await shop.connection.execute("ALTER ROLE changefeed_owner NOBYPASSRLS")
    try:
        assert "BYPASSRLS" in (await wrong(shop.dsn))["role of orders"].remedy
    finally:
        await shop.connection.execute("ALTER ROLE changefeed_owner BYPASSRLS")


async def test_a_table_that_capture_may_not_read(shop: Shop) -> None:
    await shop.connection.execute("REVOKE pg_read_all_data FROM changefeed_owner")
    try:
        assert "GRANT SELECT ON orders" in (await wrong(shop.dsn))["role of orders"].remedy
    finally:
        await shop.connection.execute("GRANT pg_read_all_data TO changefeed_owner")


async def test_sessions_whose_triggers_do_not_fire(shop: Shop) -> None:
    dsn = psycopg.conninfo.make_conninfo(shop.dsn, options="-c session_replication_role=replica")
    assert "origin" in (await wrong(dsn))["replication role"].remedy


async def test_a_login_without_roles(shop: Shop) -> None:
    async with login(shop.dsn, "stranger_login") as dsn:
        found = await wrong(dsn)
        assert found["role"].remedy == 'GRANT changefeed_reader TO "stranger_login"'


async def test_a_reader_sees_everything_in_order(shop: Shop) -> None:
    async with login(shop.dsn, "gateway_login", "changefeed_reader") as dsn:
        assert await wrong(dsn) == {}
