"""The table from driver errors to ours."""

import psycopg
import pytest
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout

from changefeed_gateway.core.errors import (
    ChangeFeedError,
    FeedNotProvisioned,
    NotFound,
    ProviderAuthenticationFailed,
    ProviderAuthorizationFailed,
    ProviderFailure,
    TransientFailure,
)
from changefeed_gateway.providers.postgres.errors import (
    BY_SQLSTATE,
    connection_lost,
    translate,
)
from changefeed_gateway.providers.postgres.outage import Outage

SECRET = "row (id)=(4711) of the server's own words"


def raised(sqlstate: str) -> psycopg.Error:
    return errors.lookup(sqlstate)(SECRET)


@pytest.mark.parametrize(
    ("sqlstate", "expected"),
    [
        ("08006", TransientFailure),
        ("25006", ProviderFailure),
        ("28000", ProviderAuthenticationFailed),
        ("28P01", ProviderAuthenticationFailed),
        ("3D000", NotFound),
        ("3F000", FeedNotProvisioned),
        ("40001", TransientFailure),
        ("40P01", TransientFailure),
        ("42501", ProviderAuthorizationFailed),
        ("42883", FeedNotProvisioned),
        ("42P01", FeedNotProvisioned),
        ("53300", TransientFailure),
        ("55P03", TransientFailure),
        ("57014", TransientFailure),
        ("57P01", TransientFailure),
        ("57P02", TransientFailure),
        ("57P03", TransientFailure),
        ("22P02", ProviderFailure),
        ("23514", ProviderFailure),
        ("XX000", ProviderFailure),
    ],
)
async def test_sqlstates(sqlstate: str, expected: type[ChangeFeedError]) -> None:
    with pytest.raises(expected) as caught, Outage("").watched():
        raise raised(sqlstate)
    assert caught.value.metadata["sqlstate"] == sqlstate
    assert isinstance(caught.value.__cause__, psycopg.Error)


@pytest.mark.parametrize("sqlstate", [*BY_SQLSTATE, "08003", "53100", "23505", "XX001"])
def test_no_message_repeats_the_server(sqlstate: str) -> None:
    ours = translate(raised(sqlstate))
    assert "4711" not in str(ours)
    assert len(str(ours)) > 20
    if ours.retryable:
        assert ours.retry_after is not None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ('connection failed: FATAL:  password authentication failed for user "x"', ProviderAuthenticationFailed),
        ('connection failed: FATAL:  role "x" does not exist', ProviderAuthenticationFailed),
        ('connection failed: FATAL:  no pg_hba.conf entry for host "10.0.0.1"', ProviderAuthenticationFailed),
        ('connection failed: FATAL:  database "x" does not exist', NotFound),
        ("connection failed: Connection refused", TransientFailure),
        ("the connection is lost", TransientFailure),
    ],
)
def test_refused_connections(words: str, expected: type[ChangeFeedError]) -> None:
    assert type(translate(psycopg.OperationalError(words))) is expected


@pytest.mark.parametrize(
    "error",
    [PoolTimeout("late"), PoolClosed("closed"), TimeoutError(), ConnectionResetError(), psycopg.InterfaceError()],
)
def test_a_database_that_does_not_answer(error: psycopg.Error | OSError) -> None:
    assert isinstance(translate(error), TransientFailure)


def test_which_failures_are_the_connections_own() -> None:
    lost = map(raised, ("57P01", "08006", "XX000"))
    assert all(map(connection_lost, [psycopg.OperationalError("server closed the connection"), *lost]))
    kept = [PoolTimeout("late"), *map(raised, ("57014", "42P01", "40001", "0A000"))]
    assert not any(map(connection_lost, kept))
