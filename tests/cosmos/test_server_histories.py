"""Random histories: whatever is written, split and merged, the wire-level server's feed is what happened."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from tests.cosmos.server.account import Account
from tests.cosmos.server.behaviour import Behaviour
from tests.cosmos.server.change import Change
from tests.cosmos.server.container import Container
from tests.cosmos.server.partition_key import MAX_EPK, MIN_EPK, Definition
from tests.cosmos.server.wire import DATABASE

KEYS = st.sampled_from([f"key {number}" for number in range(6)])
IDS = st.sampled_from(["1", "2", "3"])

STEPS: st.SearchStrategy[tuple[str, str, list[str]]] = st.one_of(
    st.tuples(st.just("upsert"), KEYS, st.lists(IDS, min_size=1, max_size=5)),
    st.tuples(st.just("delete"), KEYS, st.lists(IDS, min_size=1, max_size=1)),
    st.tuples(st.just("split"), KEYS, st.just([])),
    st.tuples(st.just("merge"), KEYS, st.just([])),
    st.tuples(st.just("read"), KEYS, st.just([])),
)


@dataclass
class Reader:
    """Reads one interval after the other and follows the ranges that they lie in."""

    container: Container
    limit: int
    places: list[tuple[str, str, int]] = field(default_factory=lambda: [(MIN_EPK, MAX_EPK, 0)])
    """Intervals, and the lsn that has been passed in each."""
    read: list[Change] = field(default_factory=list)

    def drain(self) -> None:
        """Read until nothing follows."""
        for low, high, position in list(self._clipped()):
            home = self.container.range_of(low)
            while page := home.after(position, self.limit, lambda _: True, low, high):
                assert len(page) <= self.limit or page[-1].lsn == page[self.limit - 1].lsn
                self.read += page
                position = page[-1].lsn
            self.places.append((low, high, max(position, home.lsn)))

    def _clipped(self) -> Iterator[tuple[str, str, int]]:
        places, self.places = self.places, []
        for low, high, position in places:
            for home in self.container.ranges.values():
                if max(low, home.low) < min(high, home.high):
                    yield max(low, home.low), min(high, home.high), position


@given(steps=st.lists(STEPS, max_size=60), limit=st.integers(1, 4), ranges=st.integers(1, 3))
def test_a_reader_gets_every_change_once_and_those_of_a_key_in_order(
    steps: list[tuple[str, str, list[str]]], limit: int, ranges: int
) -> None:
    account = Account(Behaviour())
    account.create_database(DATABASE)
    container = account.create_container(DATABASE, "things", Definition(("/pk",), "Hash"), ranges=ranges)
    reader = Reader(container, limit)
    for what, key, item_ids in steps:
        take(container, reader, what, key, item_ids)
    reader.drain()
    assert by_key(reader.read) == by_key(container.history)
    latest = {(change.epk, change.item_id): change for change in container.history}
    told = [change for home in container.ranges.values() for change in home.after(-1, 10**6, lambda one: one.is_latest)]
    assert sorted(map(id, told)) == sorted(id(change) for change in latest.values() if change.current is not None)


def take(container: Container, reader: Reader, what: str, key: str, item_ids: list[str]) -> None:
    """Take one step of a history."""
    home = container.range_of(container.definition.epk([key]))
    match what:
        case "upsert":
            transaction = container.transaction([key])
            for item_id in item_ids:
                transaction.upsert({"id": item_id, "pk": key})
            transaction.commit()
        case "delete":
            if (container.definition.epk([key]), item_ids[0]) in container.latest:
                container.delete([key], item_ids[0])
        case "split":
            container.split(home.range_id)
        case "merge":
            neighbours = [one for one in container.ranges.values() if one.low == home.high]
            container.merge([home.range_id, *(one.range_id for one in neighbours)])
        case _:
            reader.drain()


def by_key(changes: list[Change]) -> dict[str, list[int]]:
    """The changes of each key, in their order."""
    found: dict[str, list[int]] = defaultdict(list)
    for change in changes:
        found[change.epk].append(id(change))
    return found
