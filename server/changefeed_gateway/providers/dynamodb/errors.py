"""From what boto3 raises to the errors of the core.

No message repeats the service's own text: of a wrong signature it shows the whole request, credentials included.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

from changefeed_gateway.core.errors import (
    ChangeFeedError,
    CheckpointExpired,
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


class ExpiredIterator(ForTheCaller):
    """An iterator outlived its fifteen minutes: make another one from the same position."""


class StreamGone(ForTheCaller):
    """A stream is not there any more: ask the table what there is instead."""


class ShardGone(ForTheCaller):
    """A shard is not in its stream any more, or never was."""


class InvalidCall(ForTheCaller):
    """The service refused a value of a call that may be refused: it knows no AT_TIMESTAMP."""


def expired() -> CheckpointExpired:
    """The error for a position whose history was trimmed."""
    return CheckpointExpired(
        "the history after this position is older than the 24 hours that DynamoDB Streams keeps: restart from beginning"
        " or now, and read the table again if you mirror it"
    )


def recreated() -> InvalidRequest:
    """The error for a table whose stream is another one by now."""
    return InvalidRequest(
        "the table's stream was switched off and on, or the table was made anew: start from a snapshot, or from"
        " now and read the table after that",
        reason=Reason.TOKEN_RESOURCE_RECREATED,
    )


def without_text(error: ClientError | BotoCoreError) -> Refusal:
    """A refusal's kind, code and request id, without the service's text, which may repeat the signed request."""
    if not isinstance(error, ClientError):
        return Refusal(type(error).__name__)
    code = error.response.get("Error", {}).get("Code", "")
    return Refusal(f"{code}, request {error.response.get('ResponseMetadata', {}).get('RequestId', 'unknown')}")


def unknown(operation: str) -> ProviderFailure:
    """The error for a refusal that nobody expects."""
    return ProviderFailure(f"DynamoDB failed {operation} in a way the gateway does not know")


def unanswered() -> TransientFailure:
    """The error for an answer that broke off."""
    return TransientFailure("DynamoDB does not answer: try again", retry_after=_LATER)


def _throttled(operation: str) -> ChangeFeedError:
    return Throttled(f"DynamoDB throttles {operation}: come back later", retry_after=_LATER)


def _refused(operation: str) -> ChangeFeedError:
    return ProviderAuthenticationFailed(
        "DynamoDB refused the connection's credentials: check its profile, its role, and the clock of this machine"
    )


def _forbidden(operation: str) -> ChangeFeedError:
    return ProviderAuthorizationFailed(
        f"the connection's credentials may not call dynamodb:{operation}: allow it on the table and its stream"
    )


def _unavailable(operation: str) -> ChangeFeedError:
    return unanswered()


def _timed_out(operation: str) -> ChangeFeedError:
    return TransientFailure("DynamoDB took too long: try again", reason=Reason.PROVIDER_TIMEOUT, retry_after=_LATER)


def _no_table(operation: str) -> ChangeFeedError:
    return NotFound("there is no such table in the connection's region and account")


BY_CODE: Final[Mapping[str, Callable[[str], ChangeFeedError]]] = {
    "AccessDeniedException": _forbidden,
    "ExpiredTokenException": _refused,
    "IncompleteSignatureException": _refused,
    "InternalFailure": _unavailable,
    "InternalServerError": _unavailable,
    "InvalidSignatureException": _refused,
    "LimitExceededException": _throttled,
    "MissingAuthenticationTokenException": _refused,
    "ProvisionedThroughputExceededException": _throttled,
    "RequestLimitExceeded": _throttled,
    "ServiceUnavailable": _unavailable,
    "ThrottlingException": _throttled,
    "TrimmedDataAccessException": lambda operation: expired(),
    "UnrecognizedClientException": _refused,
}
"""Codes that mean the same for every operation."""

_NOT_FOUND: Final = "Requested resource not found: "
_ASSUME_ROLE: Final = "AssumeRole"
_CREDENTIALS: Final = (
    CredentialRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)


def translate(error: ClientError | BotoCoreError, operation: str) -> Exception:
    """Choose ours for one of theirs; the caller raises it with theirs as cause.

    Answers an error of the core, or what only the caller can judge: `ExpiredIterator`, `StreamGone`, `ShardGone`,
    `InvalidCall`.
    """
    if isinstance(error, ParamValidationError):
        return InvalidCall(f"a call of {operation} was not well formed")
    if not isinstance(error, ClientError):
        if isinstance(error, ConnectTimeoutError | ReadTimeoutError):
            return _timed_out(operation)
        return _refused(operation) if isinstance(error, _CREDENTIALS) else _unavailable(operation)
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if error.operation_name == _ASSUME_ROLE:
        # Of another service, whose codes are its own: the role is assumed on the way to the operation.
        return _unavailable(operation) if status >= 500 or code.startswith("Throttl") else _refused(operation)
    if (make := BY_CODE.get(code)) is not None:
        return make(operation)
    match code:
        case "ExpiredIteratorException":
            return ExpiredIterator()
        case "ValidationException":
            return InvalidCall(f"DynamoDB refused a value of {operation}")
        case "ResourceNotFoundException":
            return _not_found(operation, str(error.response.get("Error", {}).get("Message", "")))
        case _:
            return _unavailable(operation) if status >= 500 else unknown(operation)


def _not_found(operation: str, text: str) -> Exception:
    if operation in ("DescribeTable", "Scan"):
        return _no_table(operation)
    # Only the first words tell the two apart. AWS says "Requested resource not found: Shard does not exist", and of an
    # iterator "Invalid ShardId in ShardIterator"; DynamoDB Local leaves the beginning out.
    if operation == "DescribeStream" or text.removeprefix(_NOT_FOUND).startswith("Stream"):
        return StreamGone()
    return ShardGone()
