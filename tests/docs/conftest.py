"""A gateway in a process of its own, in front of a database with three documents."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.databases import DOCUMENTS, PostgresForTests
from tests.load.gateway_process import GatewayProcess


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """Documents and the gateway that serves their changes."""

    target: str
    dsn: str

    def upload(self, *titles: str) -> None:
        """Commit new documents in one workspace, each in a transaction of its own."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            row = connection.execute("INSERT INTO documents.workspaces (name) VALUES ('w') RETURNING id").fetchone()
            assert row is not None
            for title in titles:
                connection.execute("INSERT INTO documents.files (workspace_id, title) VALUES (%s, %s)", (row[0], title))


@asynccontextmanager
async def open_library(postgres: PostgresForTests, directory: Path) -> AsyncIterator[Library]:
    dsn = await postgres.fresh(DOCUMENTS)
    gateway = GatewayProcess(directory, dsn)
    await gateway.start()
    library = Library(target=gateway.target, dsn=dsn)
    library.upload("Lease", "Invoice", "Minutes")
    yield library
    await gateway.stop()
    await postgres.drop(dsn)


@pytest.fixture(scope="package")
async def library(postgres: PostgresForTests, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Library]:
    """One for all who only read."""
    async with open_library(postgres, tmp_path_factory.mktemp("library")) as library:
        yield library


@pytest.fixture
async def own_library(postgres: PostgresForTests, tmp_path: Path) -> AsyncIterator[Library]:
    """One that the test may add to."""
    async with open_library(postgres, tmp_path) as library:
        yield library
