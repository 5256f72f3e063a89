"""Settings of a writer's session and limits of the log that must not hide a change."""

from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg import errors

from changefeed_gateway.core.model import Beginning
from tests.postgres.shop import Shop, keys, open_shop


@pytest.fixture
async def shop(log_database: str) -> AsyncIterator[Shop]:
    async with open_shop(log_database) as shop:
        yield shop


async def test_a_session_that_replicates_is_not_captured_and_the_next_statement_is(shop: Shop) -> None:
    """A documented choice: triggers stay silent for `session_replication_role = replica`."""
    await shop.connection.execute("SET session_replication_role = replica")
    await shop.insert(1)
    await shop.connection.execute("SET session_replication_role = origin")
    await shop.insert(2)
    assert keys(await shop.page(Beginning())) == [2]


async def test_row_level_security_hides_no_change_from_the_log(shop: Shop) -> None:
    role = "tenant_of_" + str(shop.connection.info.dbname)
    await shop.connection.execute(
        f"""
        CREATE ROLE {role};
        GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO {role};
        ALTER TABLE orders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE POLICY write ON orders FOR INSERT TO {role} WITH CHECK (true);
        CREATE POLICY own ON orders TO {role} USING (space = 1);
        """.encode()
    )
    try:
        await shop.connection.execute(f"SET ROLE {role}".encode())
        await shop.insert(1, space=1)
        await shop.insert(2, space=2)  # a row that its writer cannot see
        await shop.connection.execute("UPDATE orders SET note = 'y'")
        await shop.connection.execute("DELETE FROM orders")
        with pytest.raises(errors.InsufficientPrivilege):
            await shop.connection.execute("SELECT FROM changefeed_log.log_1")
        page = await shop.page(Beginning())
        assert [(c.change_type.name, *keys([c])) for c in page.changes] == [
            ("CREATE", 1),
            ("CREATE", 2),
            ("UPDATE", 1),
            ("DELETE", 1),
        ]
    finally:
        await shop.connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}".encode())


async def test_the_last_numbers_of_a_sequence_are_read_and_then_writes_fail_loudly(shop: Shop) -> None:
    """At a million changes a second they last for 292 000 years; a sequence set by hand need not."""
    await shop.connection.execute("SELECT setval('changefeed_log.seq_1', 9223372036854775804)")
    await shop.insert(1)
    await shop.tick()
    await shop.insert(2, 3)
    assert keys(await shop.page(Beginning())) == [1, 2, 3]
    with pytest.raises(errors.SequenceGeneratorLimitExceeded):
        await shop.insert(4)
    row = await (await shop.connection.execute("SELECT count(*) FROM orders")).fetchone()
    assert row == (3,), "a change that cannot be logged is not made"


async def test_a_merge_and_rolled_back_savepoints(shop: Shop, log_database: str) -> None:
    await shop.insert(1, 2)
    async with await psycopg.AsyncConnection.connect(log_database) as writer:
        await writer.execute("""
            MERGE INTO orders o USING (VALUES (1, 'gone'), (2, 'changed'), (3, 'new')) v (id, what) ON o.id = v.id
            WHEN MATCHED AND v.what = 'gone' THEN DELETE
            WHEN MATCHED THEN UPDATE SET note = v.what
            WHEN NOT MATCHED THEN INSERT VALUES (v.id, 0, v.what)
        """)
        await writer.execute("SAVEPOINT s")
        await writer.execute("INSERT INTO orders VALUES (4, 0)")
        await writer.execute("ROLLBACK TO s")
        await writer.execute("INSERT INTO orders VALUES (5, 0)")
    page = await shop.page(Beginning())
    last = {(c.change_type.name, *keys([c])) for c in page.changes[2:]}
    assert last == {("DELETE", 1), ("UPDATE", 2), ("CREATE", 3), ("CREATE", 5)}
