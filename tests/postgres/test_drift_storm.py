"""A table that is altered again and again while it is written to: no write fails, and a mirror ends as the table."""

import asyncio
import json
import random

import psycopg
import pytest

from changefeed_gateway.core.model import ChangeType
from changefeed_gateway.providers.postgres.provider import PostgresOptions
from tests.postgres.conftest import Connection
from tests.postgres.reading import address, open_provider, read_all
from tests.postgres.test_drift import QUICK
from tests.postgres.test_watch import watch

ALTERATIONS = (
    "ALTER TABLE things RENAME space TO area",
    "ALTER TABLE things ADD extra timestamptz DEFAULT now()",
    "ALTER TABLE things RENAME id TO number",
    "ALTER TABLE things DROP extra",
    "ALTER TABLE things RENAME area TO space",
    "ALTER TABLE things RENAME number TO id",
    "ALTER TABLE things ALTER note TYPE varchar(50)",
    "ALTER TABLE things ALTER note TYPE text",
)
PLAIN = "CREATE TABLE things (id int PRIMARY KEY, space int NOT NULL, version int, note text)"
PARTITIONED = """
    CREATE TABLE things (id int PRIMARY KEY, space int NOT NULL, version int, note text) PARTITION BY HASH (id);
    CREATE TABLE things_0 PARTITION OF things FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE things_1 PARTITION OF things FOR VALUES WITH (MODULUS 2, REMAINDER 1);
"""


async def change(connection: Connection, chance: random.Random) -> None:
    """One statement that names no column that is renamed."""
    number = chance.randrange(40)
    match chance.randrange(4):
        case 0:
            await connection.execute(f"INSERT INTO things VALUES ({number}, 0, 0, 'n') ON CONFLICT DO NOTHING".encode())
        case 1:
            await connection.execute(f"DELETE FROM things WHERE version % 20 = {number}".encode())
        case _:
            await connection.execute(
                f"UPDATE things SET version = version + 1 WHERE version % 7 = {number % 7}".encode()
            )


async def write(dsn: str, seed: int, stop: asyncio.Event) -> int:
    """Short transactions; those that meet one another's row locks the wrong way round are tried again."""
    chance, written = random.Random(seed), 0
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        while not stop.is_set():
            try:
                async with connection.transaction(force_rollback=chance.random() < 0.2):
                    for _ in range(chance.randrange(1, 4)):
                        await change(connection, chance)
                        written += 1
            except psycopg.errors.DeadlockDetected:
                continue
            await asyncio.sleep(0)
    return written


async def alter(dsn: str, rounds: int) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for statement in ALTERATIONS * rounds:
            try:
                await connection.execute(statement.encode())
            except psycopg.errors.DeadlockDetected:
                await connection.execute(statement.encode())
            await connection.execute("SELECT pg_sleep(0.06)")


@pytest.mark.parametrize(
    ("table", "options"),
    [(PLAIN, ""), (PLAIN, ", always => true"), (PARTITIONED, "")],
    ids=["statements", "rows", "partitioned"],
)
@pytest.mark.parametrize("provider_options", [QUICK, PostgresOptions()], ids=["adopted", "drifted"])
@pytest.mark.req("P1", "P2")
async def test_a_mirror_ends_as_the_table(
    log_database: str, table: str, options: str, provider_options: PostgresOptions
) -> None:
    async with (
        await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection,
        open_provider(log_database, provider_options) as provider,
    ):
        await connection.execute(table.encode())
        await watch(connection, "'things', partition_key => '{space}'" + options)
        feed = await provider.open_feed(address("public.things"))
        stop = asyncio.Event()
        writers = [asyncio.create_task(write(log_database, seed, stop)) for seed in range(4)]
        await alter(log_database, rounds=3)
        stop.set()
        assert min(await asyncio.gather(*writers)) > 10
        changes, _ = await read_all(provider, feed)
        mirror: dict[str, int] = {}
        for item in changes:
            number = item.key.components[0].value
            if item.change_type is ChangeType.DELETE:
                assert mirror.pop(number, None) is not None
            else:
                assert (item.change_type is ChangeType.CREATE) == (number not in mirror)
                mirror[number] = json.loads(item.item or "")["version"]
        rows = await (await connection.execute("SELECT id::text, version FROM things")).fetchall()
        assert mirror == dict(rows)
        assert len(changes) > 100
