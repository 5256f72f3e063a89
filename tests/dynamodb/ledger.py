"""What a stream ever held, and whether a consumer was told all of it, each item in order, or that history is gone."""

import json
from collections import defaultdict
from collections.abc import Iterable
from math import inf

from google.protobuf.timestamp_pb2 import Timestamp

from tests.conformance.client import Event
from tests.dynamodb.server.shard import Record
from tests.dynamodb.server.stream import RETENTION
from tests.dynamodb.server.wire import WireServer
from tests.dynamodb.shop import TABLE

MARGIN = 5.0
"""Seconds by which a position that is a time may be earlier than it must."""


class Ledger:
    """The stream of a table, shared by every consumer of it."""

    def __init__(self, server: WireServer) -> None:
        self._server = server
        self._ids: dict[str, str] = {}

    @property
    def history(self) -> list[Record]:
        """Every record in the order it was written."""
        return self._server.stream(TABLE).history

    def now(self) -> float:
        """The service's time."""
        return self._server.account.clock.now()

    def retained(self) -> int:
        """Number of the first record that has not been trimmed."""
        kept = {r.sequence for shard in self._server.stream(TABLE).shards.values() for r in shard.records}
        return next((n for n, record in enumerate(self.history) if record.sequence in kept), len(self.history))

    def shards(self) -> set[str]:
        """The shards that the service still knows."""
        return set(self._server.stream(TABLE).shards)

    def hollow(self) -> set[str]:
        """Those that have ended and hold nothing."""
        shards = self._server.stream(TABLE).shards.values()
        return {shard.shard_id for shard in shards if shard.end is not None and not shard.records}

    def note(self, events: Iterable[Event]) -> None:
        """Hold each event's id against what the same change was called before (P3)."""
        for event in events:
            assert self._ids.setdefault(event.sequence, event.event_id) == event.event_id
        assert len(set(self._ids.values())) == len(self._ids)


class Account:
    """What one consumer was told since it began."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.since = 0
        self.delivered: dict[int, Event] = {}
        self.fresh = ledger.now()
        """When a token came last that had passed everything there was."""
        self.expiry = inf
        """The earliest forecast of a token's end since then."""
        self.places: set[str] = set()
        """Shards that have ended, in which the last token may stand."""

    def begin(self, since: int) -> None:
        """Begin anew: everything from a record on is owed."""
        self.since = since
        self.delivered = {}
        self.fresh, self.expiry = self.ledger.now(), inf
        self.places = self.ledger.hollow()

    def take(self, events: Iterable[Event], expiry: Timestamp, *, complete: bool, moved: bool = True) -> None:
        """Note events that came with a token; `complete`: it had passed everything there was.

        `moved`: it may stand elsewhere than the one before.
        """
        events = list(events)
        self.ledger.note(events)
        for event in events:
            self.delivered.setdefault(int(event.sequence), event)
        if complete:
            self.fresh, self.expiry = self.ledger.now(), inf
        self.expiry = min(self.expiry, expiry.seconds or inf)
        if moved:
            self.places = self.ledger.hollow()

    def owed(self) -> list[Record]:
        """What has not been delivered."""
        return [record for record in self.ledger.history[self.since :] if record.sequence not in self.delivered]

    def expired(self, *, tips_age: bool) -> None:
        """Hold an expiry against what was trimmed: no history is called gone that is there (P6).

        `tips_age`: the endpoint has no times, so that the position of an idle shard ages with its last record.
        A shard that vanished takes a position in it along, whatever was forecast: the service tells neither when a
        shard ended nor, once it is gone, all that descends from it.
        """
        oldest = self.ledger.now() - RETENTION.total_seconds()
        lost = any(record.time < oldest for record in self.owed())
        aged = self.fresh - MARGIN < oldest or self.expiry <= self.ledger.now()
        trimmed = tips_age and any(record.time < oldest for record in self.ledger.history)
        vanished = bool(self.places - self.ledger.shards())
        assert lost or aged or trimmed or vanished, "history was called gone that is there"

    def check(self) -> None:
        """Hold everything that was delivered against everything that was owed (P1, P2)."""
        assert not self.owed(), f"{len(self.owed())} changes are missing"
        orders: dict[str, list[int]] = defaultdict(list)
        for sequence in self.delivered:
            orders[_item(self._record(sequence))].append(sequence)
        for item, order in orders.items():
            assert order == sorted(order), f"{item} came out of order"

    def _record(self, sequence: int) -> Record:
        return next(record for record in self.ledger.history if record.sequence == sequence)


def _item(record: Record) -> str:
    return json.dumps(json.loads(record.body)["dynamodb"]["Keys"], sort_keys=True)
