"""What a container's feed ever held, and whether a consumer was told all of it, each item in order."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from changefeed.v1 import change_event_pb2
from changefeed_gateway.providers.cosmos.cursor import Mode
from tests.conformance.client import Event
from tests.cosmos.scene import THINGS
from tests.cosmos.server.change import Change
from tests.cosmos.server.wire import WireServer

_TYPES = {
    "create": change_event_pb2.CHANGE_TYPE_CREATE,
    "replace": change_event_pb2.CHANGE_TYPE_UPDATE,
    "delete": change_event_pb2.CHANGE_TYPE_DELETE,
}


class Told(NamedTuple):
    """What an event says of a change."""

    key: tuple[str, str]
    change_type: int
    sequence: str
    item: str
    expired: bool


class Ledger:
    """The history of a container, shared by every consumer of it."""

    def __init__(self, server: WireServer, mode: Mode) -> None:
        self._server = server
        self.mode = mode
        self._ids: dict[str, Told] = {}

    @property
    def history(self) -> list[Change]:
        """Every change in the order it was made."""
        return self._server.container(THINGS).history

    def note(self, events: Iterable[Event]) -> None:
        """Hold each event against what its id was told of before (P3)."""
        for event in events:
            told = _told(event)
            assert self._ids.setdefault(event.event_id, told) == told
        assert len(set(self._ids.values())) == len(self._ids)


class Account:
    """What one consumer was told since it began."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.since = 0
        self.delivered: dict[str, Event] = {}

    def begin(self) -> None:
        """Begin anew: everything from now on is owed."""
        self.since = len(self.ledger.history)
        self.delivered = {}

    def take(self, events: Iterable[Event]) -> None:
        """Note events."""
        events = list(events)
        self.ledger.note(events)
        for event in events:
            self.delivered.setdefault(event.event_id, event)

    def owed(self) -> list[Change]:
        """What has not been delivered."""
        given: dict[tuple[str, str], list[Event]] = defaultdict(list)
        for event in self.delivered.values():
            given[_key(event)].append(event)
        missing: list[Change] = []
        for key, changes in self._wanted().items():
            told = [_facts(event) for event in given[key]]
            missing += [change for change in changes if _facts_of(change, self.ledger.mode) not in told]
        return missing

    def check(self) -> None:
        """Hold everything that was delivered against everything that was owed (P1, P2)."""
        assert not self.owed(), f"{len(self.owed())} changes are missing"
        every = self._by_item(self.ledger.history)
        given: dict[tuple[str, str], list[Event]] = defaultdict(list)
        for event in self.delivered.values():
            given[_key(event)].append(event)
        for key, events in given.items():
            order = iter([_facts_of(change, self.ledger.mode) for change in every[key]])
            assert all(_facts(event) in order for event in events), f"{key} came out of order"

    def _wanted(self) -> dict[tuple[str, str], list[Change]]:
        wanted = self._by_item(self.ledger.history[self.since :])
        if self.ledger.mode is Mode.LATEST_VERSION:
            last = {key: changes[-1:] for key, changes in wanted.items()}
            return {key: changes for key, changes in last.items() if changes[0].current is not None}
        return wanted

    def _by_item(self, changes: Iterable[Change]) -> dict[tuple[str, str], list[Change]]:
        found: dict[tuple[str, str], list[Change]] = defaultdict(list)
        for change in changes:
            found[str(change.key["pk"]), change.item_id].append(change)
        return found


def _key(event: Event) -> tuple[str, str]:
    return event.key.partition_key, event.key.sort_key


def _told(event: Event) -> Told:
    expired = event.origin == change_event_pb2.ORIGIN_EXPIRY
    return Told(_key(event), event.change_type, event.sequence, event.new_item_json, expired)


def _facts(event: Event) -> tuple[object, ...]:
    return event.change_type, event.sequence, _etag(event.new_item_json), event.origin


def _facts_of(change: Change, mode: Mode) -> tuple[object, ...]:
    latest = mode is Mode.LATEST_VERSION
    origin = change_event_pb2.ORIGIN_EXPIRY if change.expired else change_event_pb2.ORIGIN_APPLICATION
    etag = change.current["_etag"] if change.current else ""
    change_type = change_event_pb2.CHANGE_TYPE_UPDATE if latest else _TYPES[change.operation]
    return change_type, str(change.lsn), etag, origin


def _etag(item_json: str) -> str:
    """What tells one version of an item from another; empty without an item."""
    marker = '"_etag":"\\"'
    return "" if not item_json else '"' + item_json.split(marker)[1].split('\\"')[0] + '"'
