"""What the service answers when it refuses, with the first words that it is known for."""

import grpc

from tests.spanner.server.clock import rfc3339


class ServiceError(Exception):
    """A refusal: its status and its text."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message


def invalid(message: str) -> ServiceError:
    """A request that can never succeed."""
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, message)


def out_of_range(message: str) -> ServiceError:
    """One of five different things: see the text."""
    return ServiceError(grpc.StatusCode.OUT_OF_RANGE, message)


def not_found(message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.NOT_FOUND, message)


def already_exists(table: str, key: tuple[object, ...]) -> ServiceError:
    return ServiceError(grpc.StatusCode.ALREADY_EXISTS, f"Table {table}: Row {_key(key)} already exists.")


def no_row(table: str, key: tuple[object, ...]) -> ServiceError:
    return not_found(f"Table {table}: Row {_key(key)} not found.")


def no_function(stream: str, *, postgres: bool) -> ServiceError:
    """A change stream that never was, or was dropped."""
    if postgres:
        signature = "timestamp with time zone, timestamp with time zone, text, bigint, unknown"
        return not_found(f"[ERROR] function spanner.read_json_{stream}({signature}) does not exist")
    return invalid(f"Table-valued function not found: READ_{stream} [at 1:26]")


def dropped(stream: str) -> ServiceError:
    """A change stream that is dropped while it is read."""
    return not_found(f"Change Stream not found: {stream}")


def combined() -> ServiceError:
    """A change stream's function in a larger statement."""
    return ServiceError(
        grpc.StatusCode.UNIMPLEMENTED, "Change stream TVF must not be combined with other SQL operations."
    )


def not_strong() -> ServiceError:
    """A change stream's function in another transaction than a single-use strong one."""
    return invalid("Change stream queries must be strong reads, executed via single use transactions.")


def end_before_start(start: int, end: int) -> ServiceError:
    return invalid(
        "If end_timestamp is specified, start_timestamp must be <= end_timestamp. Received start_timestamp:"
        f" {_offset(start)}, end_timestamp: {_offset(end)}."
    )


def heartbeat_out_of_bounds(shortest: int, longest: int, received: int) -> ServiceError:
    return out_of_range(
        f"heartbeat_milliseconds must be within min {shortest} and max {longest}."
        f" Received heartbeat_milliseconds: {received}."
    )


def too_far_in_the_past(earliest: int, start: int, *, told: bool) -> ServiceError:
    bounds = f"the earliest read timestamp: {_offset(earliest)}"
    return _misplaced("is too far in the past", bounds if told else "", start)


def too_far_in_the_future(earliest: int, latest: int, start: int, *, told: bool) -> ServiceError:
    bounds = (
        f"the earliest read timestamp: {_offset(earliest)}, and the current maximum start timestamp: {_offset(latest)}"
    )
    return _misplaced("is too far in the future", bounds if told else "", start)


def outside_the_partition(first: int, last: int, start: int, *, told: bool) -> ServiceError:
    """A start before a partition began, or after it ended: its end is the upper bound then."""
    return _misplaced("is invalid for the partition", f"{_offset(first)} and {_offset(last)}" if told else "", start)


def foreign_token(token: str) -> ServiceError:
    return invalid(
        "Specified partition_token is invalid, as it does not belong to the Change Stream associated with the TVF."
        f" Received partition_token: {token}."
    )


def aged_out() -> ServiceError:
    """A partition that ended before retention."""
    return out_of_range("This partition is no longer valid.")


def too_stale(time: int) -> ServiceError:
    """A read of rows as they were at a time of which nothing is kept."""
    return ServiceError(
        grpc.StatusCode.FAILED_PRECONDITION,
        f"Read-only transaction timestamp {_offset(time)} has exceeded the maximum timestamp staleness",
    )


def too_many_readers() -> ServiceError:
    return ServiceError(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many concurrent change stream queries for one partition token."
    )


def throttled() -> ServiceError:
    return ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded for quota metric 'Streaming reads'.")


def unavailable() -> ServiceError:
    return ServiceError(grpc.StatusCode.UNAVAILABLE, "The service is currently unavailable.")


def aborted() -> ServiceError:
    return ServiceError(grpc.StatusCode.ABORTED, "Transaction was aborted.")


def access_denied(database: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.PERMISSION_DENIED,
        f"Caller is missing IAM permission spanner.databases.select on resource {database}.",
    )


def unauthenticated() -> ServiceError:
    return ServiceError(
        grpc.StatusCode.UNAUTHENTICATED,
        "Request had invalid authentication credentials. Expected OAuth 2 access token.",
    )


def _key(key: tuple[object, ...]) -> str:
    return "{" + ",".join("NULL" if part is None else str(part) for part in key) + "}"


def _misplaced(how: str, bounds: str, start: int) -> ServiceError:
    advice = f" Please specify a start_timestamp within {bounds}." if bounds else ""
    return out_of_range(f"Specified start_timestamp {how}.{advice} Received start_timestamp: {_offset(start)}.")


def _offset(moment: int) -> str:
    return rfc3339(moment, zone="+00:00")
