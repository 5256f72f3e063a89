"""The official emulator of Cloud Spanner: found, started, and filled with databases.

It keeps its data in memory. Its partitions live as long as the process (`churn=False`), or split, merge and move every
few seconds. A retention of seconds is accepted: `OPTIONS (retention_period = '10s')`.
"""

import asyncio
import os
import shutil
import uuid
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.cloud.spanner_admin_database_v1 import DatabaseAdminAsyncClient, DatabaseDialect
from google.cloud.spanner_admin_database_v1.services.database_admin.transports import DatabaseAdminGrpcAsyncIOTransport
from google.cloud.spanner_admin_instance_v1 import Instance, InstanceAdminAsyncClient
from google.cloud.spanner_admin_instance_v1.services.instance_admin.transports import InstanceAdminGrpcAsyncIOTransport

from tests.listening import free_port

PROGRAM = "emulator_main"
PACKAGED = Path("/usr/lib/google-cloud-sdk/bin/cloud_spanner_emulator") / PROGRAM
"""Where the Debian package google-cloud-cli-spanner-emulator puts it."""

HOST_VARIABLE = "SPANNER_EMULATOR_HOST"
WAIVER_VARIABLE = "CHANGEFEED_WITHOUT_SPANNER_EMULATOR"

GOOGLE_SQL = DatabaseDialect(DatabaseDialect.GOOGLE_STANDARD_SQL)
POSTGRESQL = DatabaseDialect(DatabaseDialect.POSTGRESQL)

PROJECT = "test-project"
PATIENCE = 60
"""Seconds for it to answer its first request."""

CHURN = (
    "--override_change_stream_partition_token_alive_seconds=2",
    "--change_stream_churning_interval=1s",
    "--change_stream_churn_thread_sleep_interval=1s",
)
"""A partition lives two to four seconds, then splits, merges or moves."""

MISSING = f"no Cloud Spanner emulator: not at {HOST_VARIABLE}, {PROGRAM} not on PATH, no {PACKAGED}"


class Emulator:
    """A running emulator with an instance of our own, so that one that others started can be used as well."""

    def __init__(self, host: str) -> None:
        self.host = host
        """Host and port, as the SDK's variable SPANNER_EMULATOR_HOST has it."""
        self.project = PROJECT
        self.instance = f"tests-{uuid.uuid4().hex[:8]}"
        self._channel = grpc.aio.insecure_channel(host)
        self._databases = DatabaseAdminAsyncClient(transport=DatabaseAdminGrpcAsyncIOTransport(channel=self._channel))

    async def open(self) -> None:
        """Wait until it answers, and make the instance. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE):
            await self._channel.channel_ready()
        instances = InstanceAdminAsyncClient(transport=InstanceAdminGrpcAsyncIOTransport(channel=self._channel))
        config = f"projects/{self.project}/instanceConfigs/emulator-config"
        operation = await instances.create_instance(
            parent=f"projects/{self.project}",
            instance_id=self.instance,
            instance=Instance(config=config, display_name=self.instance, node_count=1),
        )
        await operation.result()  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        await self._channel.close()

    def path(self, database: str) -> str:
        """The full name of a database."""
        return f"projects/{self.project}/instances/{self.instance}/databases/{database}"

    async def create_database(
        self,
        database: str,
        statements: Sequence[str] = (),
        *,
        dialect: DatabaseDialect = GOOGLE_SQL,
    ) -> str:
        """Make a database with its tables and change streams; gives its full name."""
        quoted = f'"{database}"' if dialect == POSTGRESQL else f"`{database}`"
        operation = await self._databases.create_database(
            request={
                "parent": f"projects/{self.project}/instances/{self.instance}",
                "create_statement": f"CREATE DATABASE {quoted}",
                "database_dialect": dialect,
            }
        )
        await operation.result()  # type: ignore[no-untyped-call]
        if statements:
            await self.change_schema(database, *statements)
        return self.path(database)

    async def change_schema(self, database: str, *statements: str) -> None:
        """Carry out DDL."""
        operation = await self._databases.update_database_ddl(database=self.path(database), statements=list(statements))
        await operation.result()  # type: ignore[no-untyped-call]

    async def drop_database(self, database: str) -> None:
        await self._databases.drop_database(database=self.path(database))


@asynccontextmanager
async def running_emulator(*, churn: bool) -> AsyncIterator[Emulator]:
    """Run one on a free loopback port, or use the one that SPANNER_EMULATOR_HOST names, which churns as it was told to.

    When there is none, the test that asks is skipped, or fails in CI: see `must_be_there`.
    """
    if host := os.environ.get(HOST_VARIABLE):
        async with _opened(host) as emulator:
            yield emulator
        return
    async with _process(program_or_verdict(), churn=churn) as host, _opened(host) as emulator:
        yield emulator


# --- Where none is


def find_program(environment: Mapping[str, str] = os.environ, packaged: Path = PACKAGED) -> Path | None:
    """The emulator's program, on PATH or where its package puts it."""
    if found := shutil.which(PROGRAM, path=environment.get("PATH", "")):
        return Path(found)
    return packaged if os.access(packaged, os.X_OK) else None


def must_be_there(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether a run without the emulator is a failure: in CI, unless it was told that there is none."""
    return environment.get("CI") == "true" and environment.get(WAIVER_VARIABLE) != "1"


def closing_words(outcomes: Mapping[str, Sequence[object]]) -> str | None:
    """What a run says at its end, given its reports by outcome, when there was no emulator for some of its tests."""
    skipped, failed = (
        sum(
            isinstance(report, pytest.TestReport) and MISSING in report.longreprtext
            for report in outcomes.get(kind, ())
        )
        for kind in ("skipped", "error")
    )
    if skipped:
        return f"NOT TESTED on the Cloud Spanner emulator: {skipped} tests skipped, {MISSING}"
    if failed:
        return (
            f"NOT TESTED on the Cloud Spanner emulator: {failed} tests failed; set {WAIVER_VARIABLE}=1 to go without it"
        )
    return None


def program_or_verdict() -> Path:
    """The emulator's program. Where there is none, the test that asks for it is skipped, or fails in CI."""
    program = find_program()
    if program is not None:
        return program
    if must_be_there():
        pytest.fail(MISSING, pytrace=False)
    pytest.skip(MISSING)


# --- Life


@asynccontextmanager
async def _opened(host: str) -> AsyncIterator[Emulator]:
    emulator = Emulator(host)
    try:
        await emulator.open()
        yield emulator
    finally:
        await emulator.close()


@asynccontextmanager
async def _process(program: Path, *, churn: bool) -> AsyncIterator[str]:
    host = f"127.0.0.1:{free_port()}"
    flags = CHURN if churn else ("--enable_change_stream_churning=false",)
    process = await asyncio.create_subprocess_exec(
        program,
        f"--host_port={host}",
        "--cloud_spanner_emulator_disable_cs_retention_check=true",
        *flags,
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        yield host
        # Some requests kill it, and whoever asks next hears only that it is not there.
        assert process.returncode is None, f"the emulator ended by itself, with {process.returncode}"
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    # There is nothing for it to save.
    if process.returncode is None:
        process.kill()
    await process.wait()
