"""From what the Azure SDK raises to the errors of the core.

No message repeats the service's own text: of a wrong signature it shows what was signed, of a query the document.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final

from azure.core.exceptions import AzureError, ClientAuthenticationError, ServiceRequestError, ServiceResponseError
from azure.cosmos.exceptions import CosmosClientTimeoutError, CosmosHttpResponseError

from changefeed_gateway.core.errors import (
    ChangeFeedError,
    CheckpointExpired,
    FeedNotProvisioned,
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

_LATER: Final = timedelta(seconds=1)
_LONGEST_RETRY_AFTER: Final = timedelta(hours=1)

READ_DATABASE: Final = "ReadDatabase"
READ_FEED: Final = "ReadChangeFeed"

RID_DIFFERS: Final = 1024
"""Sub-status of 400: the name belongs to another container than the one that was meant."""
_TRANSIENT: Final = frozenset({(403, 3), (403, 1008), (404, 1002)})
"""A region that was left by its role, or has not caught up: while one takes over for another."""

NOT_ENABLED: Final = (
    "the account does not keep all versions and deletes: it needs continuous backup, then switch on"
    " 'All version and delete change feed mode' on its Features page (enableAllVersionsAndDeletesChangeFeed), which"
    " takes up to 30 minutes; or set mode: latest_version on the connection, which conflates versions and tells no"
    " deletions"
)


class RangeGone(ForTheCaller):
    """A range was split, merged or moved: list the ranges anew."""


class Refused(ForTheCaller):
    """The service refused a call (400) in words that mean nothing by themselves."""


class Answered(Exception):
    """An answer that must not reach the SDK, which would hide it, or ask on and on."""

    def __init__(self, status: int, sub_status: int, retry_after: timedelta | None) -> None:
        super().__init__(f"{status}/{sub_status}")
        self.status = status
        self.sub_status = sub_status
        self.retry_after = retry_after


class OtherContainer(Answered):
    """The answer is of another container than the one that was meant."""

    def __init__(self) -> None:
        super().__init__(400, RID_DIFFERS, None)


def expired() -> CheckpointExpired:
    """The error for a position that the service does not go back to."""
    return CheckpointExpired(
        "the service does not go back to this position, most likely because the history after it is older than the"
        " account's backup window: restart from now (beginning is there in mode latest_version only), and read the"
        " container again if you mirror it"
    )


def recreated() -> InvalidRequest:
    """The error for a container that is another one by now."""
    return InvalidRequest(
        "the container was deleted and made again under its name: start from a snapshot, or from now and read it"
        " after that",
        reason=Reason.TOKEN_RESOURCE_RECREATED,
    )


def merged() -> HistoryGap:
    """The error for what AllVersionsAndDeletes refuses after partitions were merged (azure-cosmos-dotnet-v3 #5707)."""
    return HistoryGap(
        "partitions of the container were merged, and all_versions_and_deletes cannot be read across that: restart from"
        " now, and read the container again if you mirror it"
    )


def without_text(error: BaseException) -> Refusal:
    """A refusal's kind, status and activity id, without the service's text."""
    if not isinstance(error, CosmosHttpResponseError):
        return Refusal(f"{type(error).__name__} {error}" if isinstance(error, Answered) else type(error).__name__)
    activity = (error.headers or {}).get("x-ms-activity-id", "unknown")
    return Refusal(f"{error.status_code}/{error.sub_status or 0}, activity {activity}")


def unknown(operation: str) -> ProviderFailure:
    """The error for a refusal that nobody expects."""
    return ProviderFailure(f"Cosmos DB failed {operation} in a way the gateway does not know")


def unavailable() -> TransientFailure:
    """The error for a service that is not there."""
    return TransientFailure("Cosmos DB does not answer: try again", retry_after=_LATER)


def lagging() -> TransientFailure:
    """The error for a range of which a replica answers that has not come as far as another one."""
    return TransientFailure("a replica of Cosmos DB lags behind: try again", retry_after=_LATER)


def lowered() -> HistoryGap:
    """The error for changes that count from a lower number than they had come to."""
    return HistoryGap(
        "the container's changes count from lower numbers than they had come to, as after a fail-over that lost writes:"
        " start from a snapshot, or from now and read the container after that"
    )


def moving() -> TransientFailure:
    """The error for ranges that keep coming and going."""
    return TransientFailure("the container's partitions are being split or moved: try again", retry_after=_LATER)


def no_partition(partition_id: str) -> NotFound:
    """The error for a partition that is not there, or not any more."""
    return NotFound(
        f"there is no partition {partition_id!r} in the container: list the partitions anew",
        reason=Reason.PARTITION_NOT_FOUND,
    )


def timed_out() -> TransientFailure:
    """The error for a call that took too long."""
    return TransientFailure("Cosmos DB took too long: try again", reason=Reason.PROVIDER_TIMEOUT, retry_after=_LATER)


def _refused() -> ChangeFeedError:
    return ProviderAuthenticationFailed(
        "Cosmos DB refused the connection's credentials: check its key or identity, and the clock of this machine"
    )


def _forbidden() -> ChangeFeedError:
    return ProviderAuthorizationFailed(
        "the connection's credentials may not read the container: allow readMetadata and readChangeFeed on it (built-in"
        " role Cosmos DB Built-in Data Reader), and this machine's address in the account's firewall"
    )


def _throttled(retry_after: timedelta | None) -> ChangeFeedError:
    return Throttled(
        "Cosmos DB throttles the container's readers: come back later, or give it more request units",
        retry_after=min(retry_after or _LATER, _LONGEST_RETRY_AFTER),
    )


def _not_found(operation: str) -> ChangeFeedError:
    if operation == READ_DATABASE:
        return NotFound("there is no such database in the connection's account", reason=Reason.DATABASE_NOT_FOUND)
    return NotFound("there is no such container in the connection's database")


_BY_STATUS: Final[Mapping[int, Callable[[], Exception]]] = {
    401: _refused,
    403: _forbidden,
    408: unavailable,
    410: RangeGone,
    449: unavailable,
    503: unavailable,
}


def translate(error: BaseException, operation: str) -> Exception:
    """Choose ours for one of theirs; the caller raises it with `without_text` of theirs as cause.

    Answers an error of the core or, of a read of a feed, what only the caller can judge: `RangeGone`, `Refused`.
    """
    match failure := _translate(error, operation):
        case RangeGone() if operation != READ_FEED:
            return unavailable()
        case Refused() if operation != READ_FEED:
            return unknown(operation)
        case _:
            return failure


def _translate(error: BaseException, operation: str) -> Exception:
    match error:
        case Answered():
            return _of_status(error.status, error.sub_status, "", operation, error.retry_after)
        case CosmosClientTimeoutError() | TimeoutError():
            return timed_out()
        case CosmosHttpResponseError():
            text = str(error.http_error_message or "")
            return _of_status(int(error.status_code or 0), int(error.sub_status or 0), text, operation, None)
        case ClientAuthenticationError():
            return _refused()
        case ServiceRequestError() | ServiceResponseError() | RecursionError():
            # The SDK follows ranges that keep moving by calling itself.
            return unavailable()
        case AzureError():
            # A body that is no JSON broke off.
            return unavailable()
        case ValueError() if "Mismatch collection rid" in str(error):
            return recreated()
        case _:
            return unknown(operation)


def _of_status(status: int, sub_status: int, text: str, operation: str, retry_after: timedelta | None) -> Exception:
    if (status, sub_status) in _TRANSIENT:
        return unavailable()
    match status:
        case 400 if sub_status == RID_DIFFERS:
            return recreated()
        case 400:
            return FeedNotProvisioned(NOT_ENABLED) if _says_not_enabled(text) else Refused(f"400/{sub_status}")
        case 404:
            return _not_found(operation)
        case 429:
            return _throttled(retry_after)
        case _ if status in _BY_STATUS:
            return _BY_STATUS[status]()
        case _ if status >= 500:
            return merged() if "more than two children" in text.lower() else unavailable()
        case _:
            return unknown(operation)


def _says_not_enabled(text: str) -> bool:
    """The one refusal that is told by its words alone (azure-sdk-for-rust PR #4904, tests of azure-cosmos)."""
    words = text.lower()
    named = "all versions and deletes" in words or "allversionsanddeletes" in words
    return named and "must be enabled" in words
