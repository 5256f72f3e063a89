"""Open streams on the wire: what operators are told of them."""

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
_LONGEST_NUMBER: Final = 18

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
    text = message.page_token
    if text and not (len(text) <= _LONGEST_NUMBER and text.isascii() and text.isdecimal()):
        raise InvalidRequest.field("page_token", "not from an answer of this gateway; start again without it")
    return StreamsAsked(
        connection=message.connection,
        collection=message.collection,
        size=min(message.page_size or DEFAULT_STREAMS, MAX_STREAMS),
        after=int(text or 0),
    )


def streams_response(gateway: str, streams: Sequence[Progress], *, more: bool) -> pb.ListStreamsResponse:
    """Encode a page of streams."""
    return pb.ListStreamsResponse(
        gateway=gateway,
        streams=map(_status, streams),
        next_page_token=str(streams[-1].number) if more else "",
    )


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
