"""From what psycopg raises to the errors of the core.

No message repeats the server's own text: its DETAIL holds row values, and both may hold documents.
"""

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final

import psycopg
from psycopg_pool import PoolTimeout

from changefeed_gateway.core.errors import (
    Category,
    ChangeFeedError,
    FeedNotProvisioned,
    NotFound,
    ProviderAuthenticationFailed,
    ProviderAuthorizationFailed,
    ProviderFailure,
    Reason,
    TransientFailure,
)

_SOON: Final = timedelta(milliseconds=200)
_LATER: Final = timedelta(seconds=1)

MIGRATE: Final = "the change log is not installed or is older than this gateway: run `changefeed migrate`"


def _unavailable() -> ChangeFeedError:
    return TransientFailure("PostgreSQL does not answer: try again", retry_after=_LATER)


def _nobody_listens() -> ChangeFeedError:
    return TransientFailure("PostgreSQL refused the connection: try again", retry_after=_LATER)


def _timed_out() -> ChangeFeedError:
    return TransientFailure("PostgreSQL took too long: try again", reason=Reason.PROVIDER_TIMEOUT, retry_after=_LATER)


def _conflicted() -> ChangeFeedError:
    return TransientFailure("PostgreSQL gave way to another transaction: try again", retry_after=_SOON)


def _refused() -> ChangeFeedError:
    return ProviderAuthenticationFailed(
        "PostgreSQL refused the connection's credentials: check its user, password and pg_hba.conf"
    )


def _forbidden() -> ChangeFeedError:
    return ProviderAuthorizationFailed(
        "the connection's role may not read the change log: grant it changefeed_reader, and CONNECT on the database"
    )


def _no_database() -> ChangeFeedError:
    return NotFound("the connection's database does not exist", reason=Reason.DATABASE_NOT_FOUND)


def _not_installed() -> ChangeFeedError:
    return FeedNotProvisioned(MIGRATE)


def _standby() -> ChangeFeedError:
    return ProviderFailure("this PostgreSQL server is a standby, which cannot make ticks: connect to the primary")


def _unknown() -> ChangeFeedError:
    return ProviderFailure("PostgreSQL failed in a way the gateway does not know")


BY_SQLSTATE: Final[Mapping[str, Callable[[], ChangeFeedError]]] = {
    "25006": _standby,
    "28000": _refused,
    "28P01": _refused,
    "3D000": _no_database,
    "3F000": _not_installed,
    "40001": _conflicted,
    "40P01": _conflicted,
    "42501": _forbidden,
    "42703": _not_installed,
    "42883": _not_installed,
    "42P01": _not_installed,
    "55P03": _timed_out,
    "57014": _timed_out,
    "57P01": _unavailable,
    "57P02": _unavailable,
    "57P03": _unavailable,
    "57P05": _unavailable,
}
"""SQLSTATEs with an answer of their own."""

BY_SQLSTATE_CLASS: Final[Mapping[str, Callable[[], ChangeFeedError]]] = {
    "08": _unavailable,
    "53": _unavailable,
}
"""The first two characters of those that share one."""

_CONNECTING: Final[tuple[tuple[str, Callable[[], ChangeFeedError]], ...]] = (
    ("password authentication failed", _refused),
    ("no password supplied", _refused),
    ("no pg_hba.conf entry", _refused),
    ("authentication failed for user", _refused),
    ('FATAL:  role "', _refused),
    ('FATAL:  database "', _no_database),
    ('permission denied for database "', _forbidden),
    ("Connection refused", _nobody_listens),
    # A socket in the file system.
    ("No such file or directory", _nobody_listens),
)
"""Words of a refused connection: libpq keeps its SQLSTATE to itself. Others, other languages too, count as a passing
failure."""


def translate(error: psycopg.Error | OSError) -> ChangeFeedError:
    """Choose ours for one of theirs; the caller raises it with theirs as cause."""
    sqlstate = getattr(error, "sqlstate", None)
    if sqlstate is not None:
        make = BY_SQLSTATE.get(sqlstate) or BY_SQLSTATE_CLASS.get(sqlstate[:2]) or _unknown
    elif isinstance(error, PoolTimeout | TimeoutError):
        make = _timed_out
    elif isinstance(error, psycopg.OperationalError):
        words = str(error)
        make = next((make for mark, make in _CONNECTING if mark in words), _unavailable)
    else:
        make = _unavailable if isinstance(error, OSError | psycopg.InterfaceError) else _unknown
    ours = make()
    if sqlstate is not None:
        ours.metadata["sqlstate"] = sqlstate
    return ours


def is_outage(error: psycopg.Error | OSError) -> bool:
    """Whether the database cannot be reached: nobody answers, or it begins or ends its work."""
    if isinstance(error, PoolTimeout | OSError):
        return True
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and translate(error).retryable
    return state[:2] in BY_SQLSTATE_CLASS or BY_SQLSTATE.get(state) is _unavailable


def connection_lost(error: psycopg.Error) -> bool:
    """Whether the same statement may succeed on another connection at once."""
    if isinstance(error, PoolTimeout):
        return False
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    # XX000: a table was dropped after its name was resolved.
    return state.startswith("08") or state in ("57P01", "57P02", "57P05", "XX000") or has_old_plan(error)


def has_old_plan(error: psycopg.Error) -> bool:
    """Whether a prepared statement outlived a change of its tables ("cached plan must not change result type").

    Its session would keep it. The function of PostgreSQL that says so tells it from a statement that is refused for
    good: others have the SQLSTATE too, and the words are in the server's language.
    """
    return error.sqlstate == "0A000" and error.diag.source_function == "RevalidateCachedQuery"


class OperationError(Exception):
    """The database refused; the message says why and, where it knows, what to do instead."""

    def __init__(self, message: str, category: Category = Category.PROVIDER_ERROR) -> None:
        super().__init__(message)
        self.category = category


_OF_AN_OPERATION: Final[Mapping[str, Category]] = {
    "0A": Category.UNSUPPORTED_CAPABILITY,
    "22": Category.INVALID_REQUEST,
    "23": Category.INVALID_REQUEST,
    "28": Category.AUTHENTICATION_FAILED,
    "3D": Category.NOT_FOUND,
    "3F": Category.NOT_FOUND,
    "40": Category.TRANSIENT_FAILURE,
    "42": Category.INVALID_REQUEST,
    "42501": Category.AUTHORIZATION_FAILED,
    "42704": Category.NOT_FOUND,
    "42P01": Category.NOT_FOUND,
    "53": Category.TRANSIENT_FAILURE,
    "55": Category.INVALID_REQUEST,
    "55P03": Category.TRANSIENT_FAILURE,
    "57": Category.TRANSIENT_FAILURE,
    "08": Category.TRANSIENT_FAILURE,
}
"""What an operator's statement was refused for, by its SQLSTATE or the class of it."""


def _category(error: psycopg.Error) -> Category:
    state = error.sqlstate
    if state is not None:
        return _OF_AN_OPERATION.get(state) or _OF_AN_OPERATION.get(state[:2]) or Category.PROVIDER_ERROR
    match translate(error):
        case ProviderAuthenticationFailed():
            return Category.AUTHENTICATION_FAILED
        case ProviderAuthorizationFailed():
            return Category.AUTHORIZATION_FAILED
        case ours:
            return ours.category


def of_outage(error: OperationError) -> bool:
    """Whether it was raised because the database cannot be reached."""
    return isinstance(error.__cause__, psycopg.Error) and is_outage(error.__cause__)


def operation_error(error: psycopg.Error) -> OperationError:
    """Say an error of the database in its own words: an operator's commands handle names, not documents."""
    parts = [error.diag.message_primary or str(error).strip()]
    if _is_not_installed(error):
        parts.append("The change log is not installed: run `changefeed migrate`.")
        return OperationError(". ".join(part.rstrip(".") for part in parts), Category.INVALID_REQUEST)
    if error.diag.message_hint:
        parts.append(error.diag.message_hint)
    return OperationError(". ".join(part.rstrip(".") for part in parts), _category(error))


def _is_not_installed(error: psycopg.Error) -> bool:
    names_ours = re.search(r'schema "changefeed"|relation "changefeed\.|function changefeed\.', str(error))
    return error.sqlstate in ("3F000", "42883", "42P01") and names_ours is not None
