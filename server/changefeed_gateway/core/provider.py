"""The one interface that every database implements."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from changefeed_gateway.core.finding import Finding
from changefeed_gateway.core.model import Address, Feed, Page, PageRead, Partition, Start

Examination = AsyncIterator[Finding]
"""What `changefeed doctor` is told of a database, each thing that was looked at after those on which it depends.

It needs no provider that was started, changes nothing, and ends where nothing more can be seen; what is wrong with the
database is a finding and never raised.
"""


class Provider(Protocol):
    """A connection to one database server or account.

    Cursors are the provider's own bytes, and a token may hold them for as long as the history lasts: a later version
    of the provider reads them, or refuses them with InvalidRequest. Those of one partition compare bytewise in reading
    order; so do those of the entire collection and of a logical partition where `Feed.single_order` holds. A cursor
    that does not compare yet (`Page.comparable`) is a place all the same: what is read after it is exact, and the first
    page that brings a change ends in one that compares.

    All methods raise only errors of `changefeed_gateway.core.errors`, with the driver's exception as cause. Every
    await may be cancelled: a cancelled read has no effect. Methods may be called concurrently, before `aclose`.
    """

    @property
    def provider_id(self) -> str:
        """The provider's name in addresses, tokens and events, such as "postgres"."""
        ...

    async def start(self) -> None:
        """Begin what goes on whether somebody reads or not; called once, before the first call.

        A database that is away is no error: it is waited for. Raises what no waiting would cure.
        """
        ...

    async def open_feed(self, address: Address) -> Feed:
        """Check that the collection exists and captures changes, against the database, not a cache.

        Called before every call of a consumer and once for a stream. Raises NotFound for an unknown database or
        collection and FeedNotProvisioned for one that captures no changes.
        """
        ...

    async def list_partitions(self, feed: Feed, start: Start | None = None) -> Sequence[Partition]:
        """List the partitions that hold retained changes, parents before their children, in a stable order.

        With a start it is enough to list those from which a reading from there sets out, and from which the retirements
        of partitions lead on to all others. Raises as `read_page` does for such a start.
        """
        ...

    async def read_page(self, feed: Feed, read: PageRead) -> Page:
        """Read one scope from one start.

        The start is exclusive for `After` and inclusive for `Beginning` and `AtTime`. `Now` is resolved before the
        answer: whatever commits after the answer is delivered after `Page.start`. With no change to give it waits up
        to `read.max_wait` and answers an empty page, whose cursor may have moved.

        Where `Feed.single_order` holds, `Snapshot` begins with the items that exist: pages of snapshots say
        `Page.snapshot`, none of their cursors is comparable, and the last of them has no changes and is `finished`.
        Elsewhere `Scan` reads items only, in some order of the provider's own in which none is missed that is there all
        the while: each as a change of type SNAPSHOT. Its cursors start a `Scan` only, it never waits, and it says
        `finished` on the page behind which there is nothing, also when that page holds items. With `max_changes` 0 it
        sees whether the items still can be read from there. Where `Feed.items_as_of` holds, all are read as they were
        at the page's `watermark`, with every change before it and none from it on: the changes follow `AtTime` of it.
        Elsewhere an item is read as it is, with every change that was committed before the scan began; one that was
        changed since then may be left out.

        Expiry is found by the read itself: CheckpointExpired. Other errors: NotFound when the partition or, since
        `open_feed`, the collection is gone; UnsupportedCapability; HistoryGap; TransientFailure; Throttled.
        """
        ...

    async def ping(self) -> None:
        """Ask the database whether it can serve, with the rights that serving needs anyway.

        Raises ChangeFeedError if it cannot, or if a task keeps failing that serving rests on.
        """
        ...

    async def aclose(self) -> None:
        """Release everything; idempotent."""
        ...
