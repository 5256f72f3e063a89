"""A database for every test, and connections to it."""

from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg.rows import TupleRow

from tests.databases import LOG, PostgresForTests

Connection = psycopg.AsyncConnection[TupleRow]


@pytest.fixture
async def database(postgres: PostgresForTests) -> AsyncIterator[str]:
    """Connection string of a database with the change log and the documents feed."""
    dsn = await postgres.fresh()
    yield dsn
    await postgres.drop(dsn)


@pytest.fixture
async def log_database(postgres: PostgresForTests) -> AsyncIterator[str]:
    """Connection string of a database with the change log only."""
    dsn = await postgres.fresh(LOG)
    yield dsn
    await postgres.drop(dsn)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        yield connection
