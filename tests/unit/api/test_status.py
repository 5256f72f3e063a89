"""Errors to statuses: every class and reason, and never too large."""

from collections.abc import Iterator
from datetime import timedelta

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st

from changefeed_gateway.api.status import DOMAIN, MAX_STATUS_BYTES, status_code, to_status
from changefeed_gateway.core.errors import (
    AuthenticationFailed,
    AuthorizationFailed,
    ChangeFeedError,
    CheckpointExpired,
    CredentialsExpired,
    FeedNotProvisioned,
    FieldViolation,
    HistoryGap,
    InternalFailure,
    InvalidRequest,
    NewItemStateUnavailable,
    NotFound,
    ProviderAccessFailed,
    ProviderAuthenticationFailed,
    ProviderAuthorizationFailed,
    ProviderFailure,
    Reason,
    Throttled,
    TransientFailure,
    UnsupportedCapability,
)
from changefeed_gateway.core.model import CapabilityName

CODES = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    FeedNotProvisioned: grpc.StatusCode.FAILED_PRECONDITION,
    CheckpointExpired: grpc.StatusCode.OUT_OF_RANGE,
    UnsupportedCapability: grpc.StatusCode.UNIMPLEMENTED,
    NewItemStateUnavailable: grpc.StatusCode.UNIMPLEMENTED,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AuthenticationFailed: grpc.StatusCode.UNAUTHENTICATED,
    CredentialsExpired: grpc.StatusCode.UNAUTHENTICATED,
    AuthorizationFailed: grpc.StatusCode.PERMISSION_DENIED,
    ProviderAccessFailed: grpc.StatusCode.UNAVAILABLE,
    ProviderAuthenticationFailed: grpc.StatusCode.UNAVAILABLE,
    ProviderAuthorizationFailed: grpc.StatusCode.UNAVAILABLE,
    Throttled: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TransientFailure: grpc.StatusCode.UNAVAILABLE,
    ProviderFailure: grpc.StatusCode.UNKNOWN,
    HistoryGap: grpc.StatusCode.DATA_LOSS,
    InternalFailure: grpc.StatusCode.INTERNAL,
}
REASONS = [case.value for case in (*Reason, *CapabilityName)]


def classes(base: type[ChangeFeedError]) -> Iterator[type[ChangeFeedError]]:
    for cls in base.__subclasses__():
        yield cls
        yield from classes(cls)


def details(status: status_pb2.Status) -> dict[str, object]:
    found: dict[str, object] = {}
    for packed in status.details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo, error_details_pb2.BadRequest):
            message = kind()
            if packed.Unpack(message):
                assert kind.__name__ not in found, "one detail a type"
                found[kind.__name__] = message
    assert len(found) == len(status.details)
    return found


def info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    found = details(status)["ErrorInfo"]
    assert isinstance(found, error_details_pb2.ErrorInfo)
    return found


def violations(status: status_pb2.Status) -> list[error_details_pb2.BadRequest.FieldViolation]:
    found = details(status)["BadRequest"]
    assert isinstance(found, error_details_pb2.BadRequest)
    return list(found.field_violations)


def test_every_class_has_its_code() -> None:
    assert set(classes(ChangeFeedError)) == set(CODES)


@pytest.mark.parametrize("cls", CODES, ids=lambda cls: cls.__name__)
def test_every_class_and_reason(cls: type[ChangeFeedError]) -> None:
    for reason in REASONS:
        error = cls("what to do", reason=reason, metadata={"provider": "memory", "event_id": "e-1"})
        status = to_status(error, request_id="r-1")
        assert status_code(error) is CODES[cls]
        assert status.code == CODES[cls].value[0]
        assert info(status).domain == DOMAIN == "changefeed.v1"
        assert info(status).reason == reason
        expected = {
            "category": cls.category.value,
            "retryable": "true" if cls.retryable else "false",
            "provider": "memory",
            "request_id": "r-1",
        }
        opaque = cls in (ProviderFailure, InternalFailure)
        assert dict(info(status).metadata) == expected | ({} if opaque else {"event_id": "e-1"})
        assert ("what to do" in status.message) is not opaque
        assert ("r-1" in status.message) is opaque
        assert ("RetryInfo" in details(status)) is (cls.retryable or issubclass(cls, ProviderAccessFailed))


def test_refused_credentials_of_the_gateway_ask_for_half_a_minute() -> None:
    for cls in (ProviderAuthenticationFailed, ProviderAuthorizationFailed):
        retry = details(to_status(cls("grant it"), request_id="r-1"))["RetryInfo"]
        assert isinstance(retry, error_details_pb2.RetryInfo)
        assert retry.retry_delay.ToTimedelta() == timedelta(seconds=30)


@pytest.mark.parametrize("cls", [ProviderFailure, InternalFailure])
def test_faults_show_only_the_request_id(cls: type[ChangeFeedError]) -> None:
    error = cls(
        "password=hunter2",
        metadata={"row": "hunter2"},
        fields=(FieldViolation(field="hunter2", description="hunter2"),),
    )
    error.__cause__ = ValueError("hunter2")
    assert b"hunter2" not in to_status(error, request_id="r-1").SerializeToString()


@pytest.mark.parametrize(
    ("error", "milliseconds"),
    [
        (Throttled("x"), 1_000),
        (TransientFailure("x"), 500),
        (Throttled("x", retry_after=timedelta(seconds=7)), 7_000),
        (TransientFailure("x", retry_after=timedelta(seconds=-1)), 0),
    ],
)
def test_retry_delays(error: ChangeFeedError, milliseconds: int) -> None:
    found = details(to_status(error, request_id="r"))["RetryInfo"]
    assert isinstance(found, error_details_pb2.RetryInfo)
    assert found.retry_delay.ToMilliseconds() == milliseconds


def test_field_violations_name_field_remedy_and_reason() -> None:
    error = InvalidRequest.field("start_position", "choose one", reason=Reason.START_REQUIRED)
    status = to_status(error, request_id="r")
    assert violations(status) == [
        error_details_pb2.BadRequest.FieldViolation(
            field="start_position", description="choose one", reason="START_REQUIRED"
        )
    ]
    assert status.message == "start_position: choose one"


def test_the_four_keys_of_every_error_cannot_be_overwritten() -> None:
    error = NotFound("x", metadata={"category": "NONE", "retryable": "true", "request_id": "forged"})
    metadata = info(to_status(error, request_id="r")).metadata
    assert (metadata["category"], metadata["retryable"], metadata["request_id"]) == ("NOT_FOUND", "false", "r")


def test_a_token_arrives_whole_beside_everything_else() -> None:
    metadata = {"event_id": "e" * 40, "item_state": "TOO_LARGE", "continuation_token": "t" * 2_000}
    error = NewItemStateUnavailable("m" * 400, metadata=metadata)
    assert metadata.items() <= dict(info(to_status(error, request_id="r" * 64)).metadata).items()


def test_what_does_not_fit_is_left_out_whole_and_said() -> None:
    metadata = {"continuation_token": "t" * 10_000, "event_id": "e-1"}
    found = info(to_status(NewItemStateUnavailable("x", metadata=metadata), request_id="r")).metadata
    assert "continuation_token" not in found
    assert (found["event_id"], found["truncated"]) == ("e-1", "true")
    fields = tuple(FieldViolation(field=f"f{n}", description="ü" * 500) for n in range(100))
    status = to_status(InvalidRequest("x", fields=fields), request_id="r")
    assert 3 < len(violations(status)) < 100
    assert info(status).metadata["truncated"] == "true"
    assert violations(status)[0].description.endswith("…")


LONG = st.integers(0, 6_000).flatmap(lambda n: st.sampled_from(["x" * n, "ü" * n, "\0\ud800" * n, "🙂" * n]))


@given(
    cls=st.sampled_from(list(CODES)),
    message=LONG,
    reason=st.sampled_from([reason.value for reason in Reason]),
    metadata=st.dictionaries(st.sampled_from(["a", "provider", "b" * 500, "c"]), LONG, max_size=4),
    fields=st.lists(st.builds(FieldViolation, field=LONG, description=LONG), max_size=40).map(tuple),
    retry_after=st.none() | st.timedeltas(),
)
def test_a_status_always_stays_below_its_bound(
    cls: type[ChangeFeedError],
    message: str,
    reason: str,
    metadata: dict[str, str],
    fields: tuple[FieldViolation, ...],
    retry_after: timedelta | None,
) -> None:
    error = cls(message, reason=reason, metadata=metadata, fields=fields, retry_after=retry_after)
    status = to_status(error, request_id="r" * 64)
    assert status.ByteSize() <= MAX_STATUS_BYTES < 4_096
    assert rpc_status.to_status(status).code is CODES[cls]
