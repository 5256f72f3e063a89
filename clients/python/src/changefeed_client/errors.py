"""What the gateway's errors say, decoded from `google.rpc.Status`."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Self

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc.aio import AioRpcError

_LONGEST_SECONDS: Final = 315_576_000_000
"""Of `google.protobuf.Duration`."""
_DETAILS_KEY: Final = "grpc-status-details-bin"

_CATEGORY_WITHOUT_DETAILS: Final = {
    grpc.StatusCode.UNAVAILABLE: "TRANSIENT_FAILURE",
    grpc.StatusCode.DEADLINE_EXCEEDED: "TRANSIENT_FAILURE",
    grpc.StatusCode.CANCELLED: "TRANSIENT_FAILURE",
    grpc.StatusCode.INTERNAL: "TRANSIENT_FAILURE",
    grpc.StatusCode.UNAUTHENTICATED: "AUTHENTICATION_FAILED",
    grpc.StatusCode.PERMISSION_DENIED: "AUTHORIZATION_FAILED",
    grpc.StatusCode.INVALID_ARGUMENT: "INVALID_REQUEST",
}
"""Categories of what the way to the gateway answers: proxies and connections send no details."""

_LOST_ON_THE_WAY: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)
"""Codes of cut connections, of streams that a proxy reset and of silence; reading again is always safe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldViolation:
    """One field of a request that was refused."""

    field: str
    description: str


@dataclass(eq=False, kw_only=True)
class ChangeFeedRpcError(Exception):
    """A call failed. `category` is for branching, `reason` for telling cases apart, `str(error)` for people."""

    code: grpc.StatusCode
    message: str
    category: str
    """INVALID_REQUEST, CHECKPOINT_EXPIRED, UNSUPPORTED_CAPABILITY, NOT_FOUND, AUTHENTICATION_FAILED,
    AUTHORIZATION_FAILED, THROTTLED, TRANSIENT_FAILURE, PROVIDER_ERROR or INTERNAL; accept others."""
    reason: str
    """What exactly went wrong, such as TOKEN_SIGNATURE; empty when the gateway did not answer."""
    retryable: bool
    """Whether the same call may succeed soon. It is false for PROVIDER_AUTHENTICATION_FAILED and
    PROVIDER_AUTHORIZATION_FAILED, although their code is UNAVAILABLE: they pass when an operator has acted."""
    retry_after: timedelta | None = None
    """How long the gateway asks to wait first."""
    provider: str = ""
    """The kind of the database, where the gateway says so."""
    request_id: str = ""
    """Finds the call in the gateway's logs."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Everything else the gateway says about the failure."""
    violations: Sequence[FieldViolation] = ()

    def __str__(self) -> str:
        request = f" [request {self.request_id}]" if self.request_id else ""
        return f"{self.reason or self.code.name}: {self.message}{request}"

    @classmethod
    def of_call(cls, error: AioRpcError) -> Self:
        """Decode what a call raised."""
        status = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
        for key, value in error.trailing_metadata() or ():
            if key == _DETAILS_KEY and isinstance(value, bytes):
                # What is no status comes from somebody on the way, and the code says enough.
                with suppress(DecodeError):
                    status = status_pb2.Status.FromString(value)
        return cls.of_status(status)

    @classmethod
    def of_status(cls, status: status_pb2.Status) -> Self:
        """Decode a status, such as `InspectContinuationTokenResponse.problem`."""
        info, retry, request = _details(status)
        code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
        metadata = dict(info.metadata)
        has_info = bool(info.reason)
        return cls(
            code=code,
            message=status.message,
            category=metadata.pop("category", "") or _CATEGORY_WITHOUT_DETAILS.get(code, "PROVIDER_ERROR"),
            reason=info.reason,
            retryable=metadata.pop("retryable", "") == "true" if has_info else code in _LOST_ON_THE_WAY,
            retry_after=span(retry.retry_delay) if retry else None,
            provider=metadata.pop("provider", ""),
            request_id=metadata.pop("request_id", ""),
            metadata=metadata,
            violations=tuple(
                FieldViolation(field=violation.field, description=violation.description)
                for violation in request.field_violations
            ),
        )


def span(duration: Duration) -> timedelta:
    """A length of time as it can be waited for: a negative one is none, one beyond any calendar is its end."""
    return timedelta(seconds=min(max(duration.seconds, 0), _LONGEST_SECONDS)) + timedelta(
        microseconds=max(duration.nanos, 0) // 1_000
    )


class ClientClosed(Exception):
    """The client, or the tail, was closed while it was used: by this program, not by the gateway."""


class StreamInterrupted(Exception):
    """A stream broke without an error of the gateway: silence, an end without farewell, a message that cannot be."""

    retry_after: timedelta | None = None


class HeartbeatMissed(StreamInterrupted):
    """Nothing arrived for two heartbeat intervals: the connection is dead, whatever it says."""


class StreamClosed(StreamInterrupted):
    """The gateway closed the stream in good order and says when to come back."""

    def __init__(self, message: str, retry_after: timedelta) -> None:
        super().__init__(message)
        self.retry_after = retry_after


_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


def _details(
    status: status_pb2.Status,
) -> tuple[error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo | None, error_details_pb2.BadRequest]:
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    request = error_details_pb2.BadRequest()
    for detail in status.details:
        for part in (info, retry, request):
            with suppress(DecodeError):
                detail.Unpack(part)
    return info, retry if retry.HasField("retry_delay") else None, request
