"""What doctor finds wrong, one fault at a time, and the remedy it names."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from changefeed_gateway.core.errors import HistoryGap
from changefeed_gateway.core.finding import Finding
from changefeed_gateway.core.model import After, AtTime, Beginning
from changefeed_gateway.providers.postgres.operations import doctor_server, doctor_ticks
from changefeed_gateway.providers.postgres.operations.doctor import examine
from changefeed_gateway.providers.postgres.retention import run as retention
from tests.postgres.history import DAY, age, grow_old
from tests.postgres.reading import read_all
from tests.postgres.roles import login
from tests.postgres.shop import Shop, keys, open_shop
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


async def test_a_login_that_may_not_connect_or_is_not_known(shop: Shop) -> None:
    database = str(conninfo_to_dict(shop.dsn)["dbname"])
    name = sql.Identifier(database)
    await shop.connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(name))
    async with login(shop.dsn, "changefeed_outside") as dsn:
        remedy = (await wrong(dsn))["database"].remedy
        assert remedy == f'GRANT CONNECT ON DATABASE "{database}" TO "changefeed_outside"'
        await shop.connection.execute(remedy.encode())
        await shop.connection.execute("GRANT changefeed_reader TO changefeed_outside")
        assert "database" not in await wrong(dsn)
    unknown = await wrong(make_conninfo(shop.dsn, user="nobody_at_all"))
    assert "user and password" in unknown["database"].remedy


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


async def drop_day(shop: Shop, part: str, days_from_now: int) -> str:
    name = f"{part}_1_{datetime.now(UTC) + days_from_now * DAY:%Y%m%d}"
    await shop.connection.execute(f"DROP TABLE changefeed_log.{name}".encode())
    return name


async def test_a_day_that_is_missing_in_between(shop: Shop) -> None:
    """No catch-all takes its rows: the application's own write fails in its time."""
    name = await drop_day(shop, "log", 0)
    found = (await wrong(shop.dsn))["retention of public.orders"]
    assert found.detail.startswith(f"{name} missing: writes to the watched table are refused in its time (23514)")
    assert "changefeed retention run" in found.remedy
    with pytest.raises(psycopg.errors.CheckViolation):
        await shop.insert(1)
    await retention.run(shop.dsn)
    assert await wrong(shop.dsn) == {}
    await shop.insert(1)


@pytest.mark.req("P6")
async def test_a_day_of_the_past_that_somebody_dropped(shop: Shop) -> None:
    await grow_old(shop)
    token = After((await shop.page(Beginning(), size=0)).cursor)
    name = await drop_day(shop, "log", -5)
    found = (await wrong(shop.dsn))["retention of public.orders"]
    assert found.detail.startswith(f"{name} missing: who reads from before it, or in it, is refused (HISTORY_GAP)")
    with pytest.raises(HistoryGap, match="a day of the log is missing"):
        await shop.page(token)
    # No empty day takes its place: nobody could tell then what was lost.
    await retention.run(shop.dsn)
    assert (await wrong(shop.dsn))["retention of public.orders"] == found
    with pytest.raises(HistoryGap):
        await shop.page(Beginning())
    assert keys(await shop.page(AtTime(datetime.now(UTC) - 3.5 * DAY))) == [3, 2, 1]


@pytest.mark.req("P1", "P6")
async def test_a_day_of_the_past_that_somebody_detached(shop: Shop) -> None:
    await grow_old(shop)
    token = After((await shop.page(Beginning(), size=0)).cursor)
    day = f"changefeed_log.log_1_{datetime.now(UTC) - 5 * DAY:%Y%m%d}"
    await shop.connection.execute(f"ALTER TABLE changefeed_log.log_1 DETACH PARTITION {day}".encode())
    with pytest.raises(HistoryGap):
        await shop.page(token)
    await retention.run(shop.dsn)
    assert await wrong(shop.dsn) == {}
    changes, _ = await read_all(shop.provider, shop.feed)
    assert keys(changes) == [6, 5, 4, 3, 2, 1]


async def test_a_day_of_ticks_that_somebody_dropped(shop: Shop) -> None:
    await grow_old(shop)
    await retention.run(shop.dsn)
    name = await drop_day(shop, "tick", -5)
    found = (await wrong(shop.dsn))["retention of public.orders"]
    assert found.detail.startswith(f"{name} missing: ")
    assert "HISTORY_GAP" in found.detail
    with pytest.raises(HistoryGap):
        await read_all(shop.provider, shop.feed)


async def test_changes_that_no_tick_covers(shop: Shop) -> None:
    await shop.insert(1)
    assert await wrong(shop.dsn) == {}
    await age(shop.connection, 2 * doctor_ticks.LATE)
    found = (await wrong(shop.dsn))["ticks of public.orders"]
    assert re.search(r"changes wait for a tick for 0:02:\d\d, 0:01:00 is too long", found.detail)
    assert "changefeed.tick_all()" in found.remedy
    await shop.tick()
    assert await wrong(shop.dsn) == {}


async def test_a_change_that_was_under_way_at_the_newest_tick(shop: Shop) -> None:
    async with await psycopg.AsyncConnection.connect(shop.dsn) as writer:
        await writer.execute("INSERT INTO orders VALUES (1, 0)")
        # A later transaction that has ended puts it into the tick's list of those under way.
        await shop.insert(2)
        await shop.tick()
        await writer.commit()
    await age(shop.connection, 2 * doctor_ticks.LATE)
    assert "changes wait for a tick" in (await wrong(shop.dsn))["ticks of public.orders"].detail


async def test_a_sequence_that_was_set_back(shop: Shop) -> None:
    await shop.insert(1, 2, 3)
    await shop.tick()
    await shop.connection.execute("SELECT setval('changefeed_log.seq_1', 1)")
    found = (await wrong(shop.dsn))["ticks of public.orders"]
    assert "the sequence stands 2 below it" in found.detail
    assert found.remedy.startswith("SELECT changefeed.begin_epoch(1)")
    await shop.connection.execute("SELECT changefeed.begin_epoch(1)")
    assert await wrong(shop.dsn) == {}
    await shop.insert(4)
    shop.feed = await shop.provider.open_feed(shop.feed.address)
    assert keys(await shop.page(Beginning())) == [4]


async def test_numbers_that_were_rolled_back_are_no_lag(shop: Shop) -> None:
    async with await psycopg.AsyncConnection.connect(shop.dsn) as writer:
        await writer.execute("INSERT INTO orders VALUES (1, 0)")
        await writer.rollback()
    await age(shop.connection, 2 * doctor_ticks.LATE)
    assert await wrong(shop.dsn) == {}


async def test_a_transaction_that_holds_changes_up(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async with await psycopg.AsyncConnection.connect(shop.dsn, application_name="nightly") as writer:
        await writer.execute("INSERT INTO orders VALUES (1, 0)")
        holder = f"pid {writer.info.backend_pid} 'nightly', transaction since"
        (line,) = [f async for f in examine(shop.dsn) if f.subject == "ticks of public.orders"]
        assert line.healthy
        assert f"what {holder}" in line.detail
        monkeypatch.setattr(doctor_ticks, "OLD", timedelta(0))
        found = (await wrong(shop.dsn))["ticks of public.orders"]
        assert holder in found.detail
        assert "pg_terminate_backend" in found.remedy


async def test_who_has_the_lock_of_the_ticks(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async with await psycopg.AsyncConnection.connect(shop.dsn, application_name="a split") as operator:
        await operator.execute("SELECT changefeed.split_partition('public.orders', '0-4095')")
        assert await wrong(shop.dsn) == {}
        monkeypatch.setattr(doctor_ticks, "LATE", timedelta(0))
        found = (await wrong(shop.dsn))["ticks of public.orders"]
        assert f"pid {operator.info.backend_pid} 'a split', transaction since" in found.detail
        assert "has the lock of the feed's ticks" in found.detail
        assert "pg_terminate_backend" in found.remedy


async def test_a_reader_is_told_that_ages_are_hidden_from_it(shop: Shop) -> None:
    async with (
        login(shop.dsn, "gateway_login", "changefeed_reader") as dsn,
        await psycopg.AsyncConnection.connect(shop.dsn) as writer,
    ):
        await writer.execute("INSERT INTO orders VALUES (1, 0)")
        lines = {finding.subject: finding.detail async for finding in examine(dsn)}
        assert "pg_read_all_stats" in lines["role"]
        assert "hidden from this role" in lines["oldest transaction"]
        assert f"what pid {writer.info.backend_pid} wrote" in lines["ticks of public.orders"]


async def test_a_transaction_that_stays_open(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_server, "OLD", timedelta(0))
    async with await connect(shop.dsn) as writer:
        await writer.execute("INSERT INTO orders VALUES (1, 0)")
        found = await wrong(shop.dsn)
        assert f"pg_terminate_backend({writer.info.backend_pid})" in found["oldest transaction"].remedy


async def test_a_prepared_transaction_that_was_forgotten(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_server, "OLD", timedelta(0))
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
    await shop.connection.execute("ALTER ROLE changefeed_capture NOBYPASSRLS")
    try:
        assert "BYPASSRLS" in (await wrong(shop.dsn))["role of public.orders"].remedy
    finally:
        await shop.connection.execute("ALTER ROLE changefeed_capture BYPASSRLS")


async def test_a_table_that_capture_may_not_read(shop: Shop) -> None:
    await shop.connection.execute("REVOKE SELECT ON orders FROM changefeed_capture")
    assert "GRANT SELECT ON public.orders" in (await wrong(shop.dsn))["role of public.orders"].remedy


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
