"""Fixtures for every kind of test, and which inputs Hypothesis tries."""

import gc
import logging
import os
import subprocess
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from typing import Protocol

import pytest
import structlog
from hypothesis import HealthCheck, settings

from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.core.token import TokenKey
from tests.clients.conformance.table import print_outcomes
from tests.databases import BINARIES, PostgresForTests, running_postgres
from tests.dynamodb.dynamodb_local import running_dynamodb_local
from tests.gateway import QUICK, TOKEN_KEY, RunningGateway
from tests.soak import SOAKING
from tests.spanner.emulator import Emulator, closing_words, running_emulator

# Speed is judged by benchmarks: a busy machine is no failure.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("test", settings.get_profile("any"), derandomize=True)
settings.register_profile("soak", settings.get_profile("any"), print_blob=True)
settings.load_profile("soak" if SOAKING else "test")

# As the gateway's own log has it: a traceback with all its locals takes a second to draw.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)

# The SDK's own metrics go to Google, and a second client in a process warns about them.
os.environ["SPANNER_DISABLE_BUILTIN_METRICS"] = "true"


def pytest_report_header() -> str | None:
    """Say which server's programs were chosen, so that a log tells what it shows."""
    if BINARIES is None:
        return None
    said = subprocess.run([str(BINARIES / "postgres"), "--version"], check=True, capture_output=True, text=True)
    return said.stdout.strip()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage in what is loaded, while it is loaded and ever after: some tests look for theirs often."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    """Say what the clients did, and at the very end what could not be tested."""
    print_outcomes(terminalreporter)
    yield
    if words := closing_words(terminalreporter.stats):
        terminalreporter.write_line(words, red=True, bold=True)


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """For who configures the log of the whole process."""
    root = logging.getLogger()
    handlers, level, ours = root.handlers[:], root.level, structlog.get_config()
    yield
    structlog.configure(**ours)
    root.handlers[:] = handlers
    root.setLevel(level)


class StartGateway(Protocol):
    """Starts a gateway over some providers, by connection; it ends with the test, its providers with it."""

    async def __call__(
        self, providers: Mapping[str, Provider], *, limits: Limits = QUICK, keys: Sequence[TokenKey] = (TOKEN_KEY,)
    ) -> RunningGateway: ...


@pytest.fixture
async def start_gateway() -> AsyncIterator[StartGateway]:
    started: list[RunningGateway] = []

    async def start(
        providers: Mapping[str, Provider], *, limits: Limits = QUICK, keys: Sequence[TokenKey] = (TOKEN_KEY,)
    ) -> RunningGateway:
        gateway = await RunningGateway.start(providers, limits=limits, keys=keys)
        started.append(gateway)
        return gateway

    yield start
    for gateway in started:
        await gateway.kill()


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[PostgresForTests]:
    """One server for all tests of a process; each takes a database of its own."""
    async with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
async def dynamodb_local() -> AsyncIterator[str]:
    """URL of one DynamoDB Local for all tests of a process; each takes tables of its own."""
    async with running_dynamodb_local() as url:
        yield url


@pytest.fixture(scope="session")
async def spanner_emulator() -> AsyncIterator[Emulator]:
    """One emulator for all tests of a process, whose partitions stay; each takes a database of its own."""
    async with running_emulator(churn=False) as emulator:
        yield emulator


@pytest.fixture(scope="session")
async def churning_spanner_emulator() -> AsyncIterator[Emulator]:
    """One more, whose partitions split, merge and move every few seconds."""
    async with running_emulator(churn=True) as emulator:
        yield emulator
