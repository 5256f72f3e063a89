"""A PostgreSQL for the load tests."""

from collections.abc import AsyncIterator

import pytest

from tests.databases import PostgresForTests, running_postgres


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[PostgresForTests]:
    async with running_postgres() as server:
        yield server
