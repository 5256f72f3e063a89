"""What the core answers: values that the API only has to put on the wire."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol

from changefeed_gateway.core.errors import ChangeFeedError
from changefeed_gateway.core.model import (
    Address,
    Change,
    Feed,
    NewItemStateMode,
    PartitionId,
    PortabilityWarning,
    RequestedStart,
    Scope,
    SnapshotProgress,
)


class ChangeEncoder(Protocol):
    """Turns changes into wire records, one each, ready to be joined into a page or batch."""

    def __call__(self, feed: Feed, changes: Sequence[Change], *, items: bool) -> list[bytes]:
        """Encode every change; `items=False` leaves items out as OMITTED."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """One page, as a caller asks for it."""

    address: Address
    scope: Scope | None
    """None: the entire collection, or the scope of the token."""
    start: RequestedStart
    mode: NewItemStateMode = NewItemStateMode.INCLUDE_IF_AVAILABLE
    page_size: int = 0
    """0: the default."""
    max_wait: timedelta = timedelta(0)
    time_remaining: timedelta | None = None
    """What the call's deadline leaves; the answer comes before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscribeRequest:
    """One stream, as a caller asks for it."""

    address: Address
    scope: Scope | None
    start: RequestedStart
    mode: NewItemStateMode = NewItemStateMode.INCLUDE_IF_AVAILABLE
    batch_size: int = 0
    """0: the default."""
    heartbeat: timedelta | None = None
    max_events: int = 0
    """0: no end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildToken:
    """A partition that replaces a retired one, ready to be read."""

    partition_id: PartitionId
    parents: tuple[PartitionId, ...]
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadAnswer:
    """One page, encoded."""

    feed: Feed
    records: Sequence[bytes]
    token: str
    more_available: bool
    retired: bool = False
    children: tuple[ChildToken, ...] = ()
    expire_time: datetime | None = None
    watermark: datetime | None = None
    provider_calls: int = 0
    request_charge: float = 0.0
    snapshot: SnapshotProgress | None = None
    warnings: tuple[PortabilityWarning, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedStart:
    """A start position as a token."""

    token: str
    expire_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenReport:
    """What a token is; `problem` is what a read with it would raise, None when it is usable."""

    problem: ChangeFeedError | None
    schema_version: int = 0
    provider_id: str = ""
    scope: Scope | None = None
    issue_time: datetime | None = None
    key_id: str = ""
    expire_time: datetime | None = None


class SubscriptionState(Enum):
    """The pace of a stream."""

    SNAPSHOT = "snapshot"
    CATCHING_UP = "catching_up"
    LIVE = "live"


class ClosingReason(Enum):
    """Why a stream ends in good order."""

    DRAINING = "draining"
    MAX_AGE = "max_age"
    MAX_EVENTS = "max_events"
    PARTITION_RETIRED = "partition_retired"
    FEED_DROPPED = "feed_dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The stream is anchored."""

    feed: Feed
    token: str
    heartbeat: timedelta
    expire_time: datetime | None
    warnings: tuple[PortabilityWarning, ...] = ()


@dataclass(slots=True, kw_only=True)
class Batch:
    """Changes, encoded; at least one."""

    records: Sequence[bytes]
    token: str
    expire_time: datetime | None
    watermark: datetime | None
    snapshot: SnapshotProgress | None = None
    shared: bool = False
    """Whether other streams send it too."""
    encoded: bytes = field(default=b"", compare=False, repr=False)
    """If it is shared: as the API puts it on the wire, left by the stream that sent it first."""


@dataclass(slots=True, kw_only=True)
class Heartbeat:
    """Nothing new within the heartbeat interval."""

    token: str
    expire_time: datetime | None
    watermark: datetime | None
    shared: bool = False
    """As of a batch."""
    encoded: bytes = field(default=b"", compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retired:
    """The physical partition of the stream is fully read."""

    partition_id: PartitionId
    children: tuple[ChildToken, ...]
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFinished:
    """Every item that was there has been delivered."""

    token: str
    expire_time: datetime | None
    snapshot: SnapshotProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """The stream changed its pace."""

    state: SubscriptionState


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """The stream ends; status OK follows."""

    reason: ClosingReason
    token: str
    reconnect_after: timedelta


StreamItem = Opened | Batch | Heartbeat | Retired | SnapshotFinished | StateChanged | Closing
