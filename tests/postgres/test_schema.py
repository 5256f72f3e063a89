"""`migrations/schema.sql` shows what all migrations together make. `UPDATE_SCHEMA=1` writes it anew."""

import asyncio
import os
import re
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from changefeed_gateway.providers.postgres.operations.migration_files import (
    MigrationError,
    MigrationSet,
    load_migrations,
)
from changefeed_gateway.providers.postgres.operations.migrations import (
    MigrationState,
    migrate,
    migration_status,
)
from tests.databases import DOCUMENTS, PostgresForTests

_SCHEMA = Path(__file__).parents[2] / "migrations" / "schema.sql"
_HEADER = "-- What the migrations make, without the days of the logs. Made by `make schema`; do not edit.\n"


async def dump(postgres: PostgresForTests) -> str:
    """The schema as pg_dump writes it, without what differs from day to day and from version to version."""
    process = await asyncio.create_subprocess_exec(
        str(postgres.server.binaries / "pg_dump"),
        *("--schema-only", "--no-owner", "--no-privileges", "--schema=changefeed", "--schema=changefeed_log"),
        *("--schema=documents", "--exclude-table=changefeed_log.*_1_*", postgres.dsn(DOCUMENTS)),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    kept = [
        line
        for line in out.decode().splitlines()
        if not re.match(r"--|SET |SELECT pg_catalog.set_config|\\(un)?restrict", line)
    ]
    return _HEADER + re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).rstrip() + "\n"


@pytest.mark.req("DB-12")
async def test_schema_sql_is_the_sum_of_the_migrations(postgres: PostgresForTests) -> None:
    schema = await dump(postgres)
    if os.environ.get("UPDATE_SCHEMA"):
        _SCHEMA.write_text(schema)
    assert _SCHEMA.read_text() == schema, "run make schema and commit the result"


@pytest.mark.req("DB-12")
async def test_migrating_again_changes_nothing(postgres: PostgresForTests, database: str) -> None:
    assert await migrate(database, documents=True) == []
    states = {status.state for status in await migration_status(database)}
    assert states == {MigrationState.APPLIED}


@pytest.mark.req("DB-12")
async def test_the_log_needs_no_documents(log_database: str) -> None:
    applied = [status for status in await migration_status(log_database) if status.state is MigrationState.APPLIED]
    assert [status.migration for status in applied] == load_migrations([MigrationSet.LOG])


@pytest.mark.req("DB-12")
async def test_an_edited_migration_is_refused_by_name(database: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(
            "UPDATE changefeed.migrations SET checksum = 'other' WHERE set = 'log' AND version = 2"
        )
    with pytest.raises(MigrationError, match=r"log/tables/0002_roles\.sql was edited"):
        await migrate(database)


@pytest.mark.req("DB-12")
async def test_a_file_of_functions_is_applied_again_when_its_text_has_changed(database: str) -> None:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute("DROP FUNCTION changefeed.tick(integer, boolean)")
        await connection.execute("UPDATE changefeed.functions SET checksum = 'older' WHERE topic = 'ticks'")
        assert [migration.file for migration in await migrate(database)] == ["log/functions/ticks.sql"]
        assert await migrate(database) == []
        await connection.execute("SELECT changefeed.tick(1)")


@pytest.mark.req("DB-12")
async def test_no_step_calls_a_function(postgres: PostgresForTests) -> None:
    name = "steps_alone"
    await postgres.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    async with await psycopg.AsyncConnection.connect(postgres.dsn(name), autocommit=True) as connection:
        for step in load_migrations():
            if step.version is not None:
                await connection.execute(step.sql.encode())
    await postgres.drop(postgres.dsn(name))
