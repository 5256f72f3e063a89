"""One way from the error tree to what a gRPC client sees: a google.rpc.Status with its details.

Everything here is bounded: details travel in HTTP/2 trailers, and above 8 KiB gRPC replaces the error.
"""

from datetime import timedelta
from typing import Final

import grpc
from google.rpc import error_details_pb2, status_pb2

from changefeed_gateway.api.wire.encode import duration
from changefeed_gateway.core.errors import (
    AuthenticationFailed,
    AuthorizationFailed,
    ChangeFeedError,
    CheckpointExpired,
    CredentialsExpired,
    FeedNotProvisioned,
    HistoryGap,
    InternalFailure,
    InvalidRequest,
    NotFound,
    ProviderAccessFailed,
    ProviderFailure,
    Throttled,
    TransientFailure,
    UnsupportedCapability,
)

DOMAIN: Final = "changefeed.v1"
MAX_STATUS_BYTES: Final = 4_095

_CODES: Final[dict[type[ChangeFeedError], grpc.StatusCode]] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    FeedNotProvisioned: grpc.StatusCode.FAILED_PRECONDITION,
    CheckpointExpired: grpc.StatusCode.OUT_OF_RANGE,
    UnsupportedCapability: grpc.StatusCode.UNIMPLEMENTED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AuthenticationFailed: grpc.StatusCode.UNAUTHENTICATED,
    AuthorizationFailed: grpc.StatusCode.PERMISSION_DENIED,
    Throttled: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TransientFailure: grpc.StatusCode.UNAVAILABLE,
    ProviderAccessFailed: grpc.StatusCode.UNAVAILABLE,
    ProviderFailure: grpc.StatusCode.UNKNOWN,
    HistoryGap: grpc.StatusCode.DATA_LOSS,
    InternalFailure: grpc.StatusCode.INTERNAL,
}

_RETRY_AFTER: Final[dict[type[ChangeFeedError], timedelta]] = {
    CredentialsExpired: timedelta(milliseconds=100),
    Throttled: timedelta(seconds=1),
    TransientFailure: timedelta(milliseconds=500),
    ProviderAccessFailed: timedelta(seconds=30),
}

_OPAQUE: Final = (ProviderFailure, InternalFailure)
"""Faults whose text nobody wrote for callers: they get the request id and no more."""

_MAX_MESSAGE_BYTES: Final = 512
_MAX_FIELD_BYTES: Final = 128
_MAX_DESCRIPTION_BYTES: Final = 256
_ENVELOPE_BYTES: Final = 256
"""Type URLs and lengths around the three details."""
_ENTRY_BYTES: Final = 12
"""Tags and lengths around one entry."""


def status_code(error: ChangeFeedError) -> grpc.StatusCode:
    """The code of an error's class, or of the nearest class above it."""
    return next(_CODES[cls] for cls in type(error).__mro__ if cls in _CODES)


def to_status(error: ChangeFeedError, *, request_id: str) -> status_pb2.Status:
    """Turn an error into a status that stays below 4 KiB.

    Carries ErrorInfo always, RetryInfo for errors that pass or that an operator ends, BadRequest for fields. What does
    not fit is left out whole, never cut in the middle of a value, and ErrorInfo.metadata then says `truncated`.
    """
    opaque = isinstance(error, _OPAQUE)
    message = f"{type(error).category.value}: quote request id {request_id}" if opaque else str(error)
    status = status_pb2.Status(code=status_code(error).value[0], message=_clip(message, _MAX_MESSAGE_BYTES))
    info = _error_info(error, request_id)
    room = MAX_STATUS_BYTES - _ENVELOPE_BYTES - status.ByteSize() - info.ByteSize()
    if not opaque:
        room = _add_metadata(info, error, room)
    bad_request = error_details_pb2.BadRequest()
    if not opaque:
        _add_violations(bad_request, info, error, room)
    status.details.add().Pack(info)
    retry_after = _retry_after(error)
    if retry_after is not None:
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=duration(retry_after)))
    if bad_request.field_violations:
        status.details.add().Pack(bad_request)
    return status


def _error_info(error: ChangeFeedError, request_id: str) -> error_details_pb2.ErrorInfo:
    """What every error carries."""
    return error_details_pb2.ErrorInfo(
        reason=_clip(error.reason, 63),
        domain=DOMAIN,
        metadata={
            "category": type(error).category.value,
            "retryable": "true" if error.retryable else "false",
            "provider": _clip(error.metadata.get("provider", ""), 64),
            "request_id": request_id,
        },
    )


def _add_metadata(info: error_details_pb2.ErrorInfo, error: ChangeFeedError, room: int) -> int:
    """Add the error's own metadata as far as there is room; the four of every error stay as they are."""
    for name, value in error.metadata.items():
        if name in info.metadata:
            continue
        encoded_name, encoded_value = _encoded(name), _encoded(value)
        size = len(encoded_name) + len(encoded_value) + _ENTRY_BYTES
        if size > room:
            info.metadata["truncated"] = "true"
            continue
        info.metadata[encoded_name.decode()] = encoded_value.decode()
        room -= size
    return room


def _add_violations(
    bad_request: error_details_pb2.BadRequest, info: error_details_pb2.ErrorInfo, error: ChangeFeedError, room: int
) -> None:
    for field in error.fields:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_clip(field.field, _MAX_FIELD_BYTES),
            description=_clip(field.description, _MAX_DESCRIPTION_BYTES),
            reason=info.reason,
        )
        room -= violation.ByteSize() + _ENTRY_BYTES
        if room < 0:
            info.metadata["truncated"] = "true"
            return
        bad_request.field_violations.append(violation)


def _retry_after(error: ChangeFeedError) -> timedelta | None:
    """The error's own delay, or its class's."""
    if error.retry_after is not None:
        return max(error.retry_after, timedelta(0))
    return next((_RETRY_AFTER[cls] for cls in type(error).__mro__ if cls in _RETRY_AFTER), None)


def _clip(text: str, max_bytes: int) -> str:
    """Cut people's text, with an ellipsis, at a character boundary."""
    encoded = _encoded(text)
    if len(encoded) <= max_bytes:
        return encoded.decode()
    return encoded[: max_bytes - 3].decode(errors="ignore") + "…"


def _encoded(text: str) -> bytes:
    """Encode text that may hold lone surrogates: an error must be tellable whatever it quotes."""
    return text.encode(errors="replace")
