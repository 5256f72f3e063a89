"""The gateway's own words for feeds, positions, changes and pages: values only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple, NewType, Self, TypeVar

from changefeed_gateway.core.errors import InternalFailure

_Data = TypeVar("_Data")

PartitionId = NewType("PartitionId", str)
"""Opaque id of a physical partition, unique within its feed."""

Cursor = NewType("Cursor", bytes)
"""A provider's own position. Cursors of one partition compare bytewise in reading order; so do cursors of the entire
collection and of a logical partition where `Feed.single_order` holds."""

Fingerprint = NewType("Fingerprint", str)
"""Identity of a collection and its incarnation: `<resource>.<incarnation>`, both hexadecimal digests."""


class _Case(Enum):
    """Hashed by what it is: an Enum's own way is to hash its name, in Python code."""

    __hash__ = object.__hash__


class ChangeType(_Case):
    """What happened to an item."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    TRUNCATE = "truncate"
    SNAPSHOT = "snapshot"
    """It was there when it was read."""


class ItemState(_Case):
    """Whether a change carries the item, and if not, why."""

    INCLUDED = "included"
    INCLUDED_CURRENT = "included_current"
    OMITTED = "omitted"
    UNAVAILABLE = "unavailable"
    TOO_LARGE = "too_large"
    NOT_APPLICABLE = "not_applicable"


class Origin(_Case):
    """Who made a change."""

    APPLICATION = "application"
    EXPIRY = "expiry"
    SYSTEM = "system"


class KeyType(_Case):
    """How the text of a key component is to be read."""

    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"
    BINARY = "binary"
    NULL = "null"


class NewItemStateMode(Enum):
    """Whether a reader wants items."""

    OMIT = "omit"
    INCLUDE_IF_AVAILABLE = "include_if_available"
    REQUIRE = "require"


class CapabilityName(Enum):
    """What a collection may or may not be able to do."""

    CHANGE_FEED = "CHANGE_FEED"
    BEGINNING = "CHANGE_FEED_BEGINNING"
    POINT_IN_TIME = "CHANGE_FEED_POINT_IN_TIME"
    LOGICAL_PARTITION_SCOPE = "CHANGE_FEED_LOGICAL_PARTITION_SCOPE"
    NEW_ITEM_STATE = "CHANGE_FEED_NEW_ITEM_STATE"
    DELETES = "CHANGE_FEED_DELETES"
    SNAPSHOT = "CHANGE_FEED_SNAPSHOT"
    SNAPSHOT_PHYSICAL_PARTITION_SCOPE = "CHANGE_FEED_SNAPSHOT_PHYSICAL_PARTITION_SCOPE"
    SNAPSHOT_LOGICAL_PARTITION_SCOPE = "CHANGE_FEED_SNAPSHOT_LOGICAL_PARTITION_SCOPE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """One capability of a collection; `detail` says why not, or under which conditions."""

    name: CapabilityName
    supported: bool
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Names one collection: a connection of the settings, a database (empty: the connection's own), a collection."""

    connection: str
    database: str
    collection: str


@dataclass(frozen=True, slots=True)
class EntireCollection:
    """Scope: every change of the collection."""


@dataclass(frozen=True, slots=True)
class PhysicalPartition:
    """Scope: the changes of one physical partition."""

    partition_id: PartitionId


@dataclass(frozen=True, slots=True)
class LogicalPartition:
    """Scope: the changes of one logical partition, named by its partition key text (see `Key`)."""

    partition_key: str


Scope = EntireCollection | PhysicalPartition | LogicalPartition


@dataclass(frozen=True, slots=True)
class Beginning:
    """Start: the oldest retained change."""


@dataclass(frozen=True, slots=True)
class Now:
    """Start: changes committed after the answer."""


@dataclass(frozen=True, slots=True)
class AtTime:
    """Start: at least every change committed at or after an aware time."""

    time: datetime


@dataclass(frozen=True, slots=True)
class After:
    """Start: exclusive of everything the cursor has passed."""

    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Start: the items that exist, then the changes."""


@dataclass(frozen=True, slots=True)
class Scan:
    """Start: the items that exist, after a place among them, without changes; `None` is before the first."""

    after: Cursor | None


@dataclass(frozen=True, slots=True)
class FromToken:
    """Start, as a caller gives it: after the position of a token."""

    token: str


Start = Beginning | Now | AtTime | After | Snapshot | Scan
"""What a provider can start from: `Snapshot` where `Feed.single_order` holds, `Scan` elsewhere."""

RequestedStart = Beginning | Now | AtTime | Snapshot | FromToken
"""What a caller can start from."""


class KeyComponent(NamedTuple):
    """One named value of a key, as exact text."""

    name: str
    value: str
    type: KeyType = KeyType.STRING


class Key(NamedTuple):
    """Identifies an item.

    `partition_key` is one text: a single string stands for itself; several values, or a string that begins with "[",
    are a JSON array.
    """

    partition_key: str
    components: tuple[KeyComponent, ...]
    sort_key: str = ""


class ExactTime(datetime):
    """A time that is finer than a microsecond."""

    nanoseconds: int = 0
    """Beyond the microsecond, 0 to 999."""

    @classmethod
    def of(cls, moment: datetime, nanoseconds: int) -> Self:
        """A time with its last three digits."""
        exact = cls.combine(moment.date(), moment.timetz())
        exact.nanoseconds = nanoseconds
        return exact


class Change(NamedTuple):
    """One change of one item. A NamedTuple because a page makes thousands of them."""

    event_id: str
    change_type: ChangeType
    key: Key
    item_state: ItemState
    item: str | None
    """The item as JSON text, present exactly in the two INCLUDED states."""
    commit_time: datetime | None
    partition_id: PartitionId
    sequence: str
    origin: Origin = Origin.APPLICATION
    annotations: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortabilityWarning:
    """Says where a collection differs from what portable code expects."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Feed:
    """Proof that a collection exists and captures changes; only `Provider.open_feed` makes one."""

    address: Address
    """With the database filled in."""
    provider_id: str
    incarnation: str
    """Changes whenever the collection's history starts anew; any stable text."""
    capabilities: tuple[Capability, ...]
    item_state: ItemState
    """What changes carry when items are asked for: INCLUDED, INCLUDED_CURRENT or UNAVAILABLE."""
    single_order: bool
    """True when the provider itself reads the entire collection, and each logical partition, as one order."""
    items_as_of: bool = False
    """True when a `Scan` reads all items as they were at one time, which its pages' `watermark` says."""
    commit_time: str = ""
    """What `Change.commit_time` means here; empty when it is never set."""
    retention: timedelta | None = None
    warnings: tuple[PortabilityWarning, ...] = ()
    provider_data: object = None
    """The provider's own facts about the open feed, of one type; nobody else looks inside."""

    def supports(self, name: CapabilityName) -> bool:
        """Tell whether the collection has a capability."""
        return any(c.supported for c in self.capabilities if c.name is name)

    def opened_as(self, kind: type[_Data]) -> _Data:
        """The provider's own facts, for the provider. Raises InternalFailure for a feed that it did not open."""
        if not isinstance(self.provider_data, kind):
            raise InternalFailure("only open_feed makes a Feed")
        return self.provider_data


class PartitionState(Enum):
    """Whether a physical partition still takes changes."""

    ACTIVE = "active"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A physical partition; `parents` are those still known."""

    partition_id: PartitionId
    parents: tuple[PartitionId, ...] = ()
    state: PartitionState = PartitionState.ACTIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A partition that replaces a retired one; `start` is its own beginning."""

    partition_id: PartitionId
    parents: tuple[PartitionId, ...]
    start: Cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRead:
    """One read of one scope. `EntireCollection` is passed only where `Feed.single_order` holds, and for a `Scan`."""

    scope: Scope
    start: Start
    max_changes: int
    """At most this many changes; 0 only resolves the start."""
    max_bytes: int
    """Upper bound for the bytes of all items together; the first change is exempt."""
    max_item_bytes: int
    """A larger item is left out with ItemState.TOO_LARGE."""
    items: bool = True
    """False: leave items out with ItemState.OMITTED."""
    max_wait: timedelta = timedelta(0)
    """How long to wait for a first change when there is none."""
    watermark_within: timedelta | None = None
    """Wait no longer where an empty page could then show a later watermark; None: the whole of `max_wait`."""
    then_waits: bool = False
    """Who reads goes on to wait at the same place: what came in the last moments may be left to that wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotProgress:
    """How far a snapshot has come."""

    items: int
    """Delivered up to the end of the page."""
    estimate: int | None = None
    """About how many there are in all; None where that is not known cheaply."""
    finished: bool = False
    """The snapshot ends with this page, which has no changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What one read brought."""

    changes: Sequence[Change]
    cursors: Sequence[Cursor]
    """The position after each change, so that a page can be cut anywhere; may compute lazily."""
    start: Cursor
    """The position before the first change: the resolved start."""
    cursor: Cursor
    """The position after the page; at or past the last of `cursors`, also when the page is empty."""
    more_available: bool
    retired: bool = False
    """The physical partition is retired and this page reaches its end."""
    children: tuple[Child, ...] = ()
    expire_time: datetime | None = None
    """When `cursor` is expected to lose its history."""
    start_expire_time: datetime | None = None
    """When `start` is: a position within the page lives no shorter."""
    watermark: datetime | None = None
    """Everything committed before it is delivered up to `cursor`."""
    comparable: bool = True
    """False: `cursor` is a place that does not compare with those of other readers yet, so they share no tail."""
    provider_calls: int = 0
    request_charge: float = 0.0
    """What the database charged for these calls, in its own unit."""
    snapshot: SnapshotProgress | None = None
    """None for a page that is none of a snapshot's. A page of a `Scan` says `finished` when nothing lies behind it."""
    warnings: tuple[PortabilityWarning, ...] = ()
    """What holds for this page beside the feed's own."""
