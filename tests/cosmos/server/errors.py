"""What the service answers when it refuses, with the texts that it is known for."""

from http import HTTPStatus


class ServiceError(Exception):
    """A refusal: the HTTP status, the sub-status, the code and the text of the body."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        sub_status: int = 0,
        retry_after_ms: int = 0,
        additional_info: str = "",
    ) -> None:
        super().__init__(f"{int(status)}/{sub_status} {code}: {message}")
        self.status = int(status)
        self.code = code
        self.message = message
        self.sub_status = sub_status
        self.retry_after_ms = retry_after_ms
        self.additional_info = additional_info
        """The body's additionalErrorInfo."""


def invalid(message: str, sub_status: int = 0) -> ServiceError:
    """A request that can never succeed."""
    return ServiceError(HTTPStatus.BAD_REQUEST, "BadRequest", message, sub_status=sub_status)


def cross_partition(plan: str) -> ServiceError:
    """A query that the client has to carry out on every range; the plan for it comes along, in JSON."""
    return ServiceError(
        HTTPStatus.BAD_REQUEST,
        "BadRequest",
        "The provided cross partition query can not be directly served by the gateway. This is a first chance"
        " (internal) exception that all newer clients will know how to handle gracefully.",
        sub_status=1004,
        additional_info=plan,
    )


def feed_is_off() -> ServiceError:
    """AllVersionsAndDeletes of an account that has not been opted in."""
    return invalid("Change Feed 'All Versions and Deletes' mode must be enabled.")


def continuation_expired() -> ServiceError:
    """A continuation of AllVersionsAndDeletes from before the retention. The service's own text is not documented."""
    return invalid("The requested continuation is older than the retention of the operation log.")


def other_container() -> ServiceError:
    """The name belongs to another container by now than the one that the client means."""
    return invalid("The collection rid that the request intends does not match.", 1024)


def wrong_signature() -> ServiceError:
    """A key that is not the account's."""
    return ServiceError(
        HTTPStatus.UNAUTHORIZED,
        "Unauthorized",
        "The input authorization token can't serve the request. The wrong key is being used or the expected payload is"
        " not built as per the protocol.",
    )


def forbidden(sub_status: int = 0) -> ServiceError:
    """A key that may not do this."""
    return ServiceError(
        HTTPStatus.FORBIDDEN, "Forbidden", "The given request is not allowed with this key.", sub_status=sub_status
    )


def not_found(sub_status: int = 0) -> ServiceError:
    """A resource that does not exist; 1003 if it is the container of what was asked for."""
    return ServiceError(
        HTTPStatus.NOT_FOUND,
        "NotFound",
        "Entity with the specified id does not exist in the system.",
        sub_status=sub_status,
    )


def conflict() -> ServiceError:
    """A resource that exists already."""
    return ServiceError(HTTPStatus.CONFLICT, "Conflict", "Entity with the specified id already exists in the system.")


def precondition_failed() -> ServiceError:
    """A resource that is not the version that the caller means."""
    return ServiceError(
        HTTPStatus.PRECONDITION_FAILED,
        "PreconditionFailed",
        "Operation cannot be performed because one of the specified precondition is not met.",
    )


def gone(sub_status: int = 1002) -> ServiceError:
    """A partition key range that was split or merged (1002), is being split (1007) or moved (1008)."""
    return ServiceError(
        HTTPStatus.GONE, "Gone", "The requested resource is no longer available at the server.", sub_status=sub_status
    )


def throttled(retry_after_ms: int = 10) -> ServiceError:
    """A caller that asks for more than its request units."""
    return ServiceError(
        HTTPStatus.TOO_MANY_REQUESTS,
        "TooManyRequests",
        "Request rate is large. More Request Units may be needed, so no changes were made.",
        sub_status=3200,
        retry_after_ms=retry_after_ms,
    )


def retry_with() -> ServiceError:
    """A write that met another one."""
    return ServiceError(
        449, "RetryWith", "Conflicting request to resource has been attempted. Retry to avoid conflicts."
    )


def unavailable(sub_status: int = 0) -> ServiceError:
    """A service that cannot answer now."""
    return ServiceError(
        HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailable", "Service is currently unavailable.", sub_status=sub_status
    )


def internal() -> ServiceError:
    """A failure of the service itself."""
    return ServiceError(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalServerError", "Unknown server error occurred.")


def request_timeout() -> ServiceError:
    """A request that took the service too long."""
    return ServiceError(
        HTTPStatus.REQUEST_TIMEOUT, "RequestTimeout", "The requested operation exceeded maximum alloted time."
    )


def merged() -> ServiceError:
    """AllVersionsAndDeletes of a range that was merged."""
    return ServiceError(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "InternalServerError",
        "Partition has more than two children which is not supported",
    )
