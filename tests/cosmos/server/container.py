"""A container: its items, and its partition key ranges with the changes of the items."""

import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tests.cosmos.server.change import Change, Item
from tests.cosmos.server.errors import conflict, invalid, not_found, precondition_failed
from tests.cosmos.server.partition_key import Component, Definition, evenly, middle
from tests.cosmos.server.pk_range import PkRange
from tests.cosmos.server.rids import child_rid

SYSTEM_PROPERTIES = ("_rid", "_self", "_etag", "_attachments", "_ts", "_lsn")


class Container:
    """One life of a container: another one of the same name has another rid."""

    def __init__(
        self,
        *,
        name: str,
        rid: str,
        link: str,
        definition: Definition,
        ranges: int,
        now: Callable[[], float],
        default_ttl: int | None = None,
    ) -> None:
        self.name = name
        self.rid = rid
        self.link = link
        self.definition = definition
        self.default_ttl = default_ttl
        self.created = now()
        self.version = 1
        """Of the listing of ranges."""
        self.ranges: dict[str, PkRange] = {}
        """Those that are online."""
        self.history: list[Change] = []
        """Every change there ever was, for a test to hold a delivery against."""
        self.latest: dict[tuple[str, str], Change] = {}
        """The last change of each item that exists, by effective partition key and id."""
        self.now_lag = 0
        """How many transactions behind the head a start at Now begins, as on a replica that lags."""
        self.stale = (0, 0)
        """Answers of a feed that are still to come from a replica, and by how many transactions that lags."""
        self._now = now
        self._range_ids = itertools.count()
        self._documents = itertools.count(1)
        self._etags = itertools.count(1)
        for low, high in itertools.pairwise(evenly(ranges)):
            self._open(low, high)

    # --- Writing

    def transaction(self, key: Sequence[Component]) -> "Transaction":
        """Begin to change items of one logical partition; nothing has happened before its `commit`."""
        return Transaction(self, key)

    def create(self, item: Item) -> Item:
        """Make an item. Raises Conflict."""
        return self._alone(item, lambda transaction: transaction.create(item))

    def upsert(self, item: Item) -> Item:
        """Make or replace an item."""
        return self._alone(item, lambda transaction: transaction.upsert(item))

    def delete(self, key: Sequence[Component], item_id: str, *, expired: bool = False) -> None:
        """Remove an item. Raises NotFound."""
        transaction = self.transaction(key)
        transaction.delete(item_id, expired=expired)
        transaction.commit()

    def read(self, key: Sequence[Component], item_id: str) -> Item:
        """An item. Raises NotFound."""
        if (change := self.latest.get((self.definition.epk(key), item_id))) is None:
            raise not_found()
        assert change.current is not None
        return change.current

    def items(self, wanted: Callable[[Change], bool] = lambda _: True) -> list[Item]:
        """The items there are, in no order that anybody may rely on."""
        return [change.current for change in self.latest.values() if change.current is not None and wanted(change)]

    # --- Ranges come and go

    def range_of(self, epk: str) -> PkRange:
        """The online range that takes an effective partition key."""
        return next(found for found in self.ranges.values() if found.covers(epk))

    def split(self, range_id: str, at: str | None = None) -> list[PkRange]:
        """Put two ranges in the place of one; they have its changes and go on behind its lsn."""
        parent = self._close([range_id])[0]
        edge = middle(parent.low, parent.high) if at is None else at
        assert parent.low < edge < parent.high, f"{edge} does not divide {range_id}"
        ancestors = [*parent.parents, range_id]
        children = [self._open(low, high, ancestors) for low, high in ((parent.low, edge), (edge, parent.high))]
        for child in children:
            child.log = [change for change in parent.log if child.covers(change.epk)]
            child.lsn, child.horizon, child.merged_at = parent.lsn, parent.horizon, parent.merged_at
        return children

    def merge(self, range_ids: Sequence[str]) -> PkRange:
        """Put one range in the place of neighbours."""
        parents = sorted(self._close(range_ids), key=lambda parent: parent.low)
        assert all(left.high == right.low for left, right in itertools.pairwise(parents)), "they are not neighbours"
        ancestors = [*dict.fromkeys(each for parent in parents for each in (*parent.parents, parent.range_id))]
        child = self._open(parents[0].low, parents[-1].high, ancestors)
        child.log = list(heapq.merge(*(parent.log for parent in parents), key=lambda change: change.lsn))
        child.lsn = child.merged_at = 1 + max(parent.lsn for parent in parents)
        child.horizon = max(parent.horizon for parent in parents)
        return child

    def trim(self) -> None:
        """Forget the history of all versions so far: its retention has passed. Who has read it all loses nothing."""
        for found in self.ranges.values():
            found.horizon = found.lsn

    def fail_over(self, lost: int) -> None:
        """Let another region take over that never heard of the last transactions, all of which made new items."""
        for found in self.ranges.values():
            found.lsn -= lost
            found.log = [change for change in found.log if change.lsn <= found.lsn]

    def listing(self, after: int) -> list[dict[str, Any]]:
        """The online ranges that a listing of an earlier version did not show."""
        return [found.describe() for found in self.ranges.values() if found.version > after]

    def describe(self) -> dict[str, Any]:
        """The container as a client reads it."""
        body: dict[str, Any] = {
            "id": self.name,
            "indexingPolicy": {
                "indexingMode": "consistent",
                "automatic": True,
                "includedPaths": [{"path": "/*"}],
                "excludedPaths": [{"path": '/"_etag"/?'}],
            },
            "partitionKey": self.definition.body(),
            "conflictResolutionPolicy": {"mode": "LastWriterWins", "conflictResolutionPath": "/_ts"},
            "geospatialConfig": {"type": "Geography"},
            "_rid": self.rid,
            "_ts": int(self.created),
            "_self": self.link,
            "_etag": f'"{self.rid}"',
            "_docs": "docs/",
            "_sprocs": "sprocs/",
            "_triggers": "triggers/",
            "_udfs": "udfs/",
            "_conflicts": "conflicts/",
        }
        if self.default_ttl is not None:
            body["defaultTtl"] = self.default_ttl
        return body

    # --- Inside

    def sealed(self, item: Item, before: Item | None) -> Item:
        """The item with the properties that the service gives it."""
        rid = before["_rid"] if before else child_rid(self.rid, next(self._documents))
        return {
            **{name: value for name, value in item.items() if name not in SYSTEM_PROPERTIES},
            "_rid": rid,
            "_self": f"{self.link}docs/{rid}/",
            "_etag": f'"{next(self._etags):08x}-0000-0000-0000-{int(self.created):012x}"',
            "_attachments": "attachments/",
            "_ts": int(self._now()),
        }

    def commit(self, epk: str, changes: Iterable[Change]) -> None:
        """Add what a transaction changed, all with one lsn."""
        home = self.range_of(epk)
        home.lsn += 1
        for change in changes:
            change.lsn, change.time = home.lsn, self._now()
            before = self.latest.pop((epk, change.item_id), None)
            if before is not None:
                before.superseded, change.previous_lsn = True, before.lsn
            if change.current is not None:
                self.latest[epk, change.item_id] = change
            home.log.append(change)
            self.history.append(change)

    def _alone(self, item: Item, step: Callable[["Transaction"], Item]) -> Item:
        transaction = self.transaction(self.definition.of(item))
        made = step(transaction)
        transaction.commit()
        return made

    def _open(self, low: str, high: str, ancestors: Sequence[str] = ()) -> PkRange:
        number = next(self._range_ids)
        rid = child_rid(self.rid, number, kind=0x50)
        found = PkRange(
            range_id=str(number), rid=rid, low=low, high=high, version=self.version, parents=list(ancestors)
        )
        self.ranges[found.range_id] = found
        return found

    def _close(self, range_ids: Sequence[str]) -> list[PkRange]:
        self.version += 1
        return [self.ranges.pop(range_id) for range_id in range_ids]


class Transaction:
    """Changes to items of one logical partition that happen together or not at all."""

    def __init__(self, container: Container, key: Sequence[Component]) -> None:
        self._container = container
        self._key = list(key)
        self._epk = container.definition.epk(key)
        self._items: dict[str, Item | None] = {}
        self._changes: list[Change] = []

    def create(self, item: Item) -> Item:
        """Make an item. Raises Conflict."""
        if self._find(item.get("id")) is not None:
            raise conflict()
        return self._put("create", item, None)

    def upsert(self, item: Item, *, if_match: str | None = None) -> Item:
        """Make or replace an item. Raises PreconditionFailed."""
        before = self._find(item.get("id"))
        if before is not None:
            _check(before, if_match)
        return self._put("create" if before is None else "replace", item, before)

    def replace(self, item_id: str, item: Item, *, if_match: str | None = None) -> Item:
        """Replace an item. Raises NotFound and PreconditionFailed."""
        before = self.read(item_id)
        _check(before, if_match)
        if item.get("id") != item_id:
            raise invalid("The id of the item does not match the one of the request.")
        return self._put("replace", item, before)

    def delete(self, item_id: str, *, if_match: str | None = None, expired: bool = False) -> None:
        """Remove an item. Raises NotFound and PreconditionFailed."""
        before = self.read(item_id)
        _check(before, if_match)
        self._add("delete", item_id, None, before, expired=expired)

    def read(self, item_id: str) -> Item:
        """An item as this transaction has left it. Raises NotFound."""
        if (item := self._find(item_id)) is None:
            raise not_found()
        return item

    def commit(self) -> None:
        """Let everything happen."""
        if self._changes:
            self._container.commit(self._epk, self._changes)

    def _put(self, operation: str, item: Item, before: Item | None) -> Item:
        if not isinstance(item.get("id"), str) or not item["id"]:
            raise invalid("The input content is invalid because the required property 'id' is missing.")
        if self._container.definition.of(item) != self._key:
            raise invalid("PartitionKey extracted from document doesn't match the one specified in the header.", 1001)
        made = self._container.sealed(item, before)
        self._add(operation, item["id"], made, before)
        return made

    def _add(
        self, operation: str, item_id: str, item: Item | None, before: Item | None, *, expired: bool = False
    ) -> None:
        self._items[item_id] = item
        self._changes.append(
            Change(
                lsn=0,
                time=0.0,
                epk=self._epk,
                operation=operation,
                item_id=item_id,
                key=self._container.definition.told(self._key),
                current=item,
                previous=before,
                expired=expired,
            )
        )

    def _find(self, item_id: object) -> Item | None:
        if item_id in self._items:
            return self._items[str(item_id)]
        change = self._container.latest.get((self._epk, str(item_id)))
        return change.current if change else None


def _check(item: Item, if_match: str | None) -> None:
    if if_match not in (None, "*", item["_etag"]):
        raise precondition_failed()
