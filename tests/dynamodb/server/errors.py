"""What the service answers when it refuses, with the texts that it is known for."""

from http import HTTPStatus


class ServiceError(Exception):
    """A refusal: its code, its text, and the HTTP status."""

    def __init__(self, code: str, message: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = int(status)


UNMODELLED = frozenset(
    {
        "AccessDeniedException",
        "InternalFailure",
        "InvalidSignatureException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "ThrottlingException",
        "UnknownOperationException",
        "UnrecognizedClientException",
        "ValidationException",
    }
)
"""Codes that any operation may answer although its model does not name them."""


def invalid(message: str) -> ServiceError:
    """A request that can never succeed."""
    return ServiceError("ValidationException", message)


def trimmed() -> ServiceError:
    """A position whose records are gone."""
    return ServiceError(
        "TrimmedDataAccessException",
        "The operation attempted to read past the oldest stream record in a shard.",
    )


def expired_iterator() -> ServiceError:
    """An iterator older than fifteen minutes."""
    return ServiceError("ExpiredIteratorException", "Iterator expired: the iterator is too old.")


def no_table(name: str) -> ServiceError:
    """A table that does not exist."""
    return ServiceError("ResourceNotFoundException", f"Requested resource not found: Table: {name} not found")


def no_stream(arn: str) -> ServiceError:
    """A stream that does not exist."""
    return ServiceError("ResourceNotFoundException", f"Requested resource not found: Stream: {arn} not found")


def no_shard() -> ServiceError:
    """A shard that does not exist, or is older than its stream's history; in the words of AWS."""
    return ServiceError("ResourceNotFoundException", "Requested resource not found: Shard does not exist")


def third_reader() -> ServiceError:
    """More readers of a shard than the service allows."""
    return ServiceError("LimitExceededException", "There are more than two readers of the same shard at one time.")


def access_denied(operation: str, resource: str) -> ServiceError:
    """An operation that the caller's policy does not allow."""
    return ServiceError(
        "AccessDeniedException",
        f"User: arn:aws:iam::123456789012:user/reader is not authorized to perform: dynamodb:{operation}"
        f" on resource: {resource} because no identity-based policy allows the dynamodb:{operation} action",
    )


def throttled(code: str = "ThrottlingException") -> ServiceError:
    """A caller that asks too often, in one of the words that the service has for it."""
    return ServiceError(code, "Rate of requests exceeds the allowed throughput.")


def internal() -> ServiceError:
    """A failure of the service itself."""
    return ServiceError(
        "InternalServerError", "An error occurred on the server side.", HTTPStatus.INTERNAL_SERVER_ERROR
    )
