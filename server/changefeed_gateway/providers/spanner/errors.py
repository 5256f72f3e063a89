"""From what Spanner answers to the errors of the core.

One code stands for several things, so the first words decide (facts are in docs/providers/spanner.md). No message
repeats the service's own text: it may show a partition token or a statement.
"""

import re
from datetime import timedelta
from typing import Final

from google.api_core.exceptions import (
    Aborted,
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    Forbidden,
    GoogleAPICallError,
    InternalServerError,
    InvalidArgument,
    OutOfRange,
    ResourceExhausted,
    RetryError,
    ServiceUnavailable,
    Unauthenticated,
    Unknown,
)
from google.api_core.exceptions import (
    NotFound as ApiNotFound,
)
from google.auth.exceptions import GoogleAuthError, TransportError

from changefeed_gateway.core.errors import (
    CheckpointExpired,
    HistoryGap,
    InvalidRequest,
    NotFound,
    ProviderAuthenticationFailed,
    ProviderAuthorizationFailed,
    ProviderFailure,
    Reason,
    Throttled,
    TransientFailure,
)
from changefeed_gateway.core.refusals import ForTheCaller, Refusal
from changefeed_gateway.providers.spanner import instants

_LATER: Final = timedelta(seconds=1)
_TIME: Final = r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|\+00:00))"
_EARLIEST: Final = re.compile(rf"earliest read timestamp: {_TIME}")
_WITHIN: Final = re.compile(rf"within {_TIME} and {_TIME}")
_NO_FUNCTION: Final = re.compile(r"\[ERROR\] function spanner\.read_json_\w+\(.*\) does not exist")
"""What the PostgreSQL dialect says of a stream that is not there."""
_PLUGIN: Final = "metadata from plugin failed"
_REFUSED_BY_GOOGLE: Final = (
    "invalid_grant",
    "invalid_client",
    "unauthorized_client",
    "invalid_scope",
    "Reauthentication",
)
"""Words of OAuth 2.0 (RFC 6749, 5.2), and of google-auth, for credentials that are no good."""
_BROKEN_OFF: Final = (
    "RST_STREAM",
    "Received unexpected EOS",
    "stream terminated",
    "HTTP/2 error code: INTERNAL_ERROR",
    "Connection closed with unknown cause",
)
"""What a connection that broke says under the code INTERNAL, which others use for faults (nodejs-spanner #1822)."""


class TooFarPast(ForTheCaller):
    """A start lies before what the stream holds."""

    def __init__(self, earliest: int | None) -> None:
        """`earliest`: what it holds begins there, in nanoseconds; None where the service does not say."""
        super().__init__(earliest)
        self.earliest = earliest


class TooFarFuture(ForTheCaller):
    """A start lies more than ten minutes ahead."""


class OutsidePartition(ForTheCaller):
    """A start lies before the partition began, or after it ended."""

    def __init__(self, first: int | None, last: int | None) -> None:
        """Both ends of the partition, in nanoseconds; None where the service does not say."""
        super().__init__(first, last)
        self.first, self.last = first, last


class ForeignPartition(ForTheCaller):
    """A partition token is not one of the stream: of another, of an earlier one of its name, or no token at all."""


class StreamGone(ForTheCaller):
    """The stream is not there: ask the table what there is instead."""


class TableGone(ForTheCaller):
    """A table, or a column of it, is not there at the time that was asked for."""


class SessionGone(ForTheCaller):
    """The service forgot the session: make another one."""


def without_text(error: Exception) -> Refusal:
    """A refusal's kind, without the service's text."""
    code = getattr(error, "grpc_status_code", None)
    return Refusal(f"{type(error).__name__}{f' ({code.name})' if code is not None else ''}")


def expired() -> CheckpointExpired:
    """The error for a position whose history is gone."""
    return CheckpointExpired(
        "the history after this position is older than the change stream keeps: restart from beginning or now, and read"
        " the table again if you mirror it"
    )


def outlived() -> CheckpointExpired:
    """The error for a snapshot whose rows can no longer be read as they were when it began."""
    return CheckpointExpired(
        "the rows as they were when the snapshot began are older than the database keeps: lengthen its"
        " version_retention_period if snapshots take longer"
    )


def before_retention() -> CheckpointExpired:
    """The error for a time before everything that is kept."""
    return CheckpointExpired(
        "the change stream holds nothing from that time: start at a later time, from beginning or now",
        reason=Reason.START_TIME_BEFORE_RETENTION,
    )


def recreated() -> InvalidRequest:
    """The error for a change stream that is another one of the same name by now."""
    return InvalidRequest.field(
        "start_position.continuation_token",
        "the table's change stream was dropped and made anew: start from a snapshot, or from now"
        " and read the table after that",
        reason=Reason.TOKEN_RESOURCE_RECREATED,
    )


def table_recreated() -> InvalidRequest:
    """The error for a snapshot of a table that is not there as it was when it began."""
    return InvalidRequest.field(
        "start_position.continuation_token",
        "the table is not there any more as it was when the snapshot began: read it again from a new snapshot",
        reason=Reason.TOKEN_RESOURCE_RECREATED,
    )


def endless(partition: str) -> HistoryGap:
    """The error for a partition that has ended and names nothing that goes on where it did."""
    return HistoryGap(
        f"the change-stream partition {partition[:12]}... has ended and names no partition that follows it"
    )


def unknown(doing: str) -> ProviderFailure:
    """The error for a refusal that nobody expects."""
    return ProviderFailure(f"Spanner failed {doing} in a way the gateway does not know")


def unanswered() -> TransientFailure:
    """The error for an answer that broke off."""
    return TransientFailure("Spanner does not answer: try again", retry_after=_LATER)


def silent_end() -> TransientFailure:
    """The error for a query of a partition that ended before it had said anything of what is there."""
    return TransientFailure("Spanner ends the partition's query without a word: try again", retry_after=_LATER)


def unauthenticated() -> ProviderAuthenticationFailed:
    """The error for credentials that are missing or refused."""
    return ProviderAuthenticationFailed(
        "Spanner refused the connection's credentials: check credentials_file, or the application default credentials"
    )


def no_partition(partition: str) -> NotFound:
    """The error for a partition id that the stream does not know, or no longer."""
    return NotFound(
        f"there is no partition {partition[:12]!r}... in the table's change stream: list the partitions anew",
        reason=Reason.PARTITION_NOT_FOUND,
    )


def translate(error: Exception, doing: str) -> Exception:
    """Choose ours for one of theirs; the caller raises it.

    Answers an error of the core, or what only the caller can judge: a `ForTheCaller`. `doing` names the call.
    """
    message = error.message if isinstance(error, GoogleAPICallError) else ""
    text = message if isinstance(message, str) else ""
    match error:
        case OutOfRange():
            return _out_of_range(text, doing)
        case InvalidArgument():
            return _invalid(text, doing)
        case ApiNotFound():
            return _not_found(text, doing)
        case ResourceExhausted():
            return Throttled("Spanner has no room for the query: come back later", retry_after=_LATER)
        case FailedPrecondition() if "exceeded the maximum timestamp staleness" in text:
            return outlived()
        case Unauthenticated():
            return unauthenticated()
        case Forbidden():
            return ProviderAuthorizationFailed(
                f"the connection's credentials may not do {doing}: allow spanner.sessions.create,"
                " spanner.databases.select and, for snapshots, spanner.databases.read (roles/spanner.databaseReader)"
            )
        case DeadlineExceeded():
            return TransientFailure(
                "Spanner took too long: try again", reason=Reason.PROVIDER_TIMEOUT, retry_after=_LATER
            )
        case ServiceUnavailable() if _PLUGIN in text and any(word in text for word in _REFUSED_BY_GOOGLE):
            # What Google's library raises within gRPC comes as an outage (google-cloud-python #10424).
            return unauthenticated()
        case ServiceUnavailable() | Aborted() | RetryError() | TransportError():
            return unanswered()
        # To be asked again ("Spanner error codes"): an end that the service cut short, and a connection that broke
        # off, of which gRPC says "Stream removed" (grpc #34076). One that this process ends raises CancelledError.
        case Cancelled() | Unknown():
            return unanswered()
        case GoogleAuthError():
            return unauthenticated()
        case InternalServerError() if any(words in text for words in _BROKEN_OFF):
            return unanswered()
        case _:
            return unknown(doing)


def _out_of_range(text: str, doing: str) -> Exception:
    if text.startswith("Specified start_timestamp is too far in the past"):
        found = _EARLIEST.search(text)
        return TooFarPast(instants.parse(found[1]) if found else None)
    if text.startswith("Specified start_timestamp is too far in the future"):
        return TooFarFuture()
    if text.startswith("Specified start_timestamp is invalid"):
        return _outside(text)
    if text.startswith("This partition is no longer valid"):
        return TooFarPast(None)
    return unknown(doing)


def _outside(text: str) -> OutsidePartition:
    found = _WITHIN.search(text)
    return (
        OutsidePartition(instants.parse(found[1]), instants.parse(found[2])) if found else OutsidePartition(None, None)
    )


def _invalid(text: str, doing: str) -> Exception:
    if text.startswith("Specified partition_token is invalid"):
        return ForeignPartition()
    # Beam meets it under this code as well.
    if text.startswith("Specified start_timestamp is invalid"):
        return _outside(text)
    if "able-valued function not found" in text:
        return StreamGone()
    return unknown(doing)


def _not_found(text: str, doing: str) -> Exception:
    if text.startswith("Session not found"):
        return SessionGone()
    if text.startswith("Change Stream not found") or _NO_FUNCTION.match(text):
        return StreamGone()
    if text.startswith(("Table not found", "Column not found")):
        return TableGone()
    if text.startswith("Database not found"):
        return NotFound("there is no such database in the connection's instance", reason=Reason.DATABASE_NOT_FOUND)
    if text.startswith("Instance not found"):
        return NotFound("there is no such instance in the connection's project", reason=Reason.DATABASE_NOT_FOUND)
    return unknown(doing)
