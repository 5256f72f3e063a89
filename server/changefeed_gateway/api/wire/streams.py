"""Open streams on the wire: what operators are told of them."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from changefeed.v1 import operator_service_pb2 as pb
from changefeed.v1 import resource_pb2
from changefeed_gateway.api.wire.cases import SUBSCRIPTION_STATES
from changefeed_gateway.api.wire.decode import MAX_NAME_CHARS
from changefeed_gateway.api.wire.encode import duration, timestamp
from changefeed_gateway.core.errors import InvalidRequest
from changefeed_gateway.core.model import EntireCollection, LogicalPartition, PhysicalPartition, Scope
from changefeed_gateway.core.streams import Progress

DEFAULT_STREAMS: Final = 500
MAX_STREAMS: Final = 2_000
"""In one answer; each is well below a kilobyte."""
_PAGE_TOKEN: Final = re.compile(r"(?:([1-9][0-9]{0,3})\.)?([0-9]{1,18})", re.ASCII)
"""A worker's number where there are several, and that of its last stream that was told."""

_SCOPES: Final[dict[type[Scope] | None, pb.StreamScope]] = {
    None: pb.STREAM_SCOPE_UNSPECIFIED,
    EntireCollection: pb.STREAM_SCOPE_ENTIRE_COLLECTION,
    PhysicalPartition: pb.STREAM_SCOPE_PHYSICAL_PARTITION,
    LogicalPartition: pb.STREAM_SCOPE_LOGICAL_PARTITION,
}


class StreamsAsked(NamedTuple):
    """Which streams somebody asks for."""

    connection: str
    """Empty: of every one."""
    collection: str
    """Empty: of every one."""
    size: int
    after: int
    """Number of the last stream that was told already."""
    worker: int
    """Which of several processes is asked; 0 where the token names none."""

    def wanted(self, progress: Progress) -> bool:
        """Whether a stream is one of them."""
        if not (self.connection or self.collection):
            return True
        feed = progress.feed
        return (
            feed is not None
            and self.connection in ("", feed.address.connection)
            and self.collection in ("", feed.address.collection)
        )


def streams_asked(message: pb.ListStreamsRequest) -> StreamsAsked:
    """Decode a request. Raises InvalidRequest."""
    for field, name in (("connection", message.connection), ("collection", message.collection)):
        if len(name) > MAX_NAME_CHARS:
            raise InvalidRequest.field(field, f"longer than {MAX_NAME_CHARS} characters")
    if message.page_size < 0:
        raise InvalidRequest.field("page_size", "negative; 0 means the default")
    place = _PAGE_TOKEN.fullmatch(message.page_token or "0")
    if place is None:
        raise foreign_page_token()
    return StreamsAsked(
        connection=message.connection,
        collection=message.collection,
        size=min(message.page_size or DEFAULT_STREAMS, MAX_STREAMS),
        after=int(place[2]),
        worker=int(place[1] or 0),
    )


def foreign_page_token() -> InvalidRequest:
    """What is said of a page token that no answer of this gateway had."""
    return InvalidRequest.field("page_token", "not from an answer of this gateway; start again without it")


def page_token(worker: int, after: int) -> str:
    """What asks for the streams after one; `worker` 0 where there is one process."""
    return f"{worker}.{after}" if worker else str(after)


def streams_response(gateway: str, streams: Sequence[Progress], *, next_page_token: str) -> pb.ListStreamsResponse:
    """Encode a page of streams."""
    return pb.ListStreamsResponse(gateway=gateway, streams=map(_status, streams), next_page_token=next_page_token)


def _status(progress: Progress) -> pb.StreamStatus:
    standing, feed, scope, state = progress.standing(), progress.feed, progress.scope, progress.state
    blocked = progress.blocked
    return pb.StreamStatus(
        stream_id=progress.number,
        request_id=progress.request_id,
        principal=progress.principal,
        host=progress.caller,
        address=None
        if feed is None
        else resource_pb2.ResourceAddress(
            connection=feed.address.connection, database=feed.address.database, collection=feed.address.collection
        ),
        scope=_SCOPES[None if scope is None else type(scope)],
        physical_partition_id=scope.partition_id if isinstance(scope, PhysicalPartition) else "",
        state=None if state is None else SUBSCRIPTION_STATES[state],
        start_time=timestamp(progress.began),
        events=progress.events,
        bytes=progress.bytes,
        events_per_second=progress.events_per_second,
        lag=duration(standing.lag),
        changes_behind=standing.changes,
        token_expire_time=timestamp(progress.expire_time),
        blocked=duration(blocked) if blocked else None,
    )
