"""What was committed, and whether a consumer was told all of it, each item in order."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from changefeed.v1 import change_event_pb2
from changefeed_gateway.core.model import CapabilityName
from tests.conformance.backend import Backend, Item, keeps_order
from tests.conformance.client import Event


class Commit(NamedTuple):
    """One committed change; content None is a delete."""

    item: Item
    content: str | None
    created: bool

    @property
    def change_type(self) -> change_event_pb2.ChangeType:
        """What the feed calls it."""
        if self.content is None:
            return change_event_pb2.CHANGE_TYPE_DELETE
        return change_event_pb2.CHANGE_TYPE_CREATE if self.created else change_event_pb2.CHANGE_TYPE_UPDATE


def deduplicated(events: Iterable[Event]) -> list[Event]:
    """The first event of each id; those that repeat it must equal it (P3)."""
    first: dict[str, Event] = {}
    for event in events:
        known = first.setdefault(event.event_id, event)
        assert (known.key, known.change_type, known.sequence) == (event.key, event.change_type, event.sequence)
        assert (known.partition_id, known.commit_timestamp) == (event.partition_id, event.commit_timestamp)
    return list(first.values())


def ids(events: Iterable[Event]) -> list[str]:
    """Event ids in order."""
    return [event.event_id for event in events]


def by_partition(events: Iterable[Event]) -> dict[str, list[str]]:
    """Event ids of each physical partition in order."""
    found: dict[str, list[str]] = defaultdict(list)
    for event in events:
        found[event.partition_id].append(event.event_id)
    return dict(found)


def check_suffix(part: Iterable[Event], whole: Iterable[Event]) -> None:
    """Every partition's events are the last ones of all its events: nothing missing, nothing else, same order."""
    known = by_partition(whole)
    for partition, got in by_partition(part).items():
        assert got == known[partition][-len(got) :]


def tells_every_change(backend: Backend) -> bool:
    """Whether a feed tells each version and each delete, rather than the last version of what there is."""
    return CapabilityName.DELETES in backend.capabilities


@dataclass
class Journal:
    """Everything that was committed, in order."""

    backend: Backend
    commits: list[Commit] = field(default_factory=list)
    items: dict[Item, str] = field(default_factory=dict)
    """What the collection holds."""

    def check(self, events: Sequence[Event], *, since: int = 0, at_least: bool = False) -> None:
        """Hold a delivery against everything committed from the commit numbered `since` on (P1, P2).

        `at_least`: what was committed last before may come too, in its order.
        """
        unique = deduplicated(events)
        assert len(unique) == len(events), "delivered twice"
        got: dict[Item, list[Event]] = defaultdict(list)
        for event in unique:
            got[self.backend.item_of(event.key)].append(event)
        wanted: dict[Item, list[Commit]] = defaultdict(list)
        for commit in self.commits[since:]:
            wanted[commit.item].append(commit)
        if at_least:
            for item, some in got.items():
                known = [commit for commit in self.commits if commit.item == item]
                wanted[item] = known[-max(len(some), len(wanted[item])) :]
        if not tells_every_change(self.backend):
            self._check_latest(got, wanted)
            return
        assert got.keys() == wanted.keys()
        if not keeps_order(self.backend):
            for some in got.values():
                _check_order_within_partitions(some)
                some.sort(key=lambda event: event.commit_timestamp.ToNanoseconds())
        for item, commits in wanted.items():
            assert [e.change_type for e in got[item]] == [c.change_type for c in commits], item
            for number, event in enumerate(got[item]):
                self._check_content(event, commits[number:])

    def _check_latest(self, got: Mapping[Item, Sequence[Event]], wanted: Mapping[Item, Sequence[Commit]]) -> None:
        """Hold a delivery of latest versions against commits: the last one of each item, and none that is older."""
        assert got.keys() <= wanted.keys()
        for item, commits in wanted.items():
            contents = [self.backend.content_of(event.new_item_json) for event in got[item] if event.new_item_json]
            versions = iter([commit.content for commit in commits])
            assert all(content in versions for content in contents), f"{item}: not in the order of its versions"
            assert {event.change_type for event in got[item]} <= {change_event_pb2.CHANGE_TYPE_UPDATE}
            # What is deleted by then may have come, or not.
            if commits[-1].content is not None:
                assert got[item], f"{item} is missing"
                assert not contents or contents[-1] == commits[-1].content

    def _check_content(self, event: Event, commits: Sequence[Commit]) -> None:
        """Hold an event against its commit and the later ones of its item."""
        match event.item_state:
            case change_event_pb2.ITEM_STATE_INCLUDED:
                assert self.backend.content_of(event.new_item_json) == commits[0].content
            case change_event_pb2.ITEM_STATE_INCLUDED_CURRENT:
                assert self.backend.content_of(event.new_item_json) in [c.content for c in commits]
            case change_event_pb2.ITEM_STATE_NOT_APPLICABLE:
                assert any(c.content is None for c in commits)
            case _:
                pass
        included = event.item_state in (
            change_event_pb2.ITEM_STATE_INCLUDED,
            change_event_pb2.ITEM_STATE_INCLUDED_CURRENT,
        )
        assert bool(event.new_item_json) == included


def _check_order_within_partitions(events: Iterable[Event]) -> None:
    times: dict[str, list[int]] = defaultdict(list)
    for event in events:
        times[event.partition_id].append(event.commit_timestamp.ToNanoseconds())
    assert all(some == sorted(some) for some in times.values())
