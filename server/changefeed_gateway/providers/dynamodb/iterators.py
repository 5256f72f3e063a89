"""Iterators of one shard: made for a position, and kept for whoever reads on from the same place."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import CheckpointExpired, TransientFailure, UnsupportedCapability
from changefeed_gateway.core.model import CapabilityName
from changefeed_gateway.providers.dynamodb.cursor import CLOCKS_DIFFER, LIFE, RETENTION, Kind, Position, now
from changefeed_gateway.providers.dynamodb.empty_run import RECENT, EmptyRun
from changefeed_gateway.providers.dynamodb.errors import InvalidCall, ShardGone, expired
from changefeed_gateway.providers.dynamodb.mapping import Record, created_of, sequence_of
from changefeed_gateway.providers.dynamodb.sdk import Answer, Sdk

_RETENTION_SECONDS: Final = int(RETENTION.total_seconds())
LIFE_SECONDS: Final = int(LIFE.total_seconds())
_SOON: Final = timedelta(seconds=1)
_MOST_SPOTS: Final = 64
"""Places of a shard whose iterators are kept."""


@dataclass(slots=True, kw_only=True)
class Spot:
    """Where this process reads on from one place."""

    iterator: str | None
    """None at the end of a closed shard."""
    drop: Callable[[Record], bool] | None = None
    """Whether a record lies before the place: where the iterator had to begin earlier."""
    tip: bool = False
    """The iterator was made at the tip."""
    since: int = 0
    """What is older may have been trimmed before the iterator was made."""
    run: EmptyRun = field(default_factory=EmptyRun)
    not_before: float
    """When to ask again, on the monotonic clock."""


class Iterators:
    """Of one shard of one stream. Methods raise ShardGone, StreamGone and the errors of the service."""

    def __init__(self, sdk: Sdk, stream_arn: str, shard_id: str, *, times: bool, granularity: int) -> None:
        """`times`: the endpoint may be asked for AT_TIMESTAMP. `granularity`: seconds to which it rounds times down."""
        self.calls = 0
        """To the service, so far."""
        self.exists = False
        """Whether the service knew the shard when it was asked last."""
        self._sdk = sdk
        self._shard = {"StreamArn": stream_arn, "ShardId": shard_id}
        self._times = times
        self._granularity = granularity
        self._spots: OrderedDict[tuple[int, ...], Spot] = OrderedDict()
        self._first_after_now: dict[int, int] = {}
        """The number of the first record after a NOW, by its mark: more exact than its time."""

    # --- What is kept

    def known(self, position: Position) -> Spot | None:
        """Where to read on from a place, if it is kept."""
        return self._spots.get(position.place)

    def keep(self, position: Position, spot: Spot) -> None:
        """Keep it; the place that nobody came to for longest is forgotten."""
        self._spots[position.place] = spot
        self._spots.move_to_end(position.place)
        if len(self._spots) > _MOST_SPOTS:
            self._spots.popitem(last=False)

    def forget(self, position: Position) -> None:
        """Make a new iterator the next time."""
        self._spots.pop(position.place, None)

    def note_first(self, position: Position, sequence: int) -> None:
        """Keep the number of the first record after a NOW."""
        self._first_after_now[position.mark] = sequence
        if len(self._first_after_now) > _MOST_SPOTS:
            del self._first_after_now[next(iter(self._first_after_now))]

    # --- What is made

    async def find(self, position: Position) -> Spot:
        """Where to read on from a position. Raises CheckpointExpired, UnsupportedCapability."""
        known = self._spots.get(position.place)
        if known is not None:
            self._spots.move_to_end(position.place)
            if position.as_of < known.since:
                # Another reader found the same place later, when less was left of the shard.
                raise expired()
            return known
        try:
            spot = await self._begin(position)
        except CheckpointExpired:
            spot = await self._from_horizon(position)
        self.keep(position, spot)
        return spot

    async def latest(self) -> Position:
        """After everything that is there, by an iterator that is kept."""
        answer = await self._make("LATEST")
        position = now(answer.time, self._granularity, mark=time.time_ns())
        self.keep(position, _spot(answer, tip=True))
        return position

    async def check_lives(self) -> None:
        """See whether the service still knows the shard."""
        await self._make("TRIM_HORIZON")

    def check_age(self, position: Position) -> None:
        """See whether nothing beyond a position can have been trimmed yet. Raises CheckpointExpired."""
        # The service's clock, as its last answer told it.
        if self._sdk.time - position.as_of >= LIFE_SECONDS:
            raise expired()

    async def _begin(self, position: Position) -> Spot:
        match position.kind:
            case Kind.BEFORE:
                return await self._at_number("AT_SEQUENCE_NUMBER", position.sequence)
            case Kind.AFTER:
                return await self._at_number("AFTER_SEQUENCE_NUMBER", position.sequence)
            case Kind.AT:
                return await self._at_time(position)
            case Kind.NOW if (first := self._first_after_now.get(position.mark)) is not None:
                return await self._at_number("AT_SEQUENCE_NUMBER", first)
            case Kind.NOW if self._times:
                return await self._at_time(position)
            case _:
                return await self._from_horizon(position)

    async def _at_number(self, kind: str, sequence: int) -> Spot:
        # As the service writes it: at least 21 digits.
        answer = await self._make(kind, SequenceNumber=f"{sequence:021d}")
        return _spot(answer)

    async def _at_time(self, position: Position) -> Spot:
        # Nothing lay between the time and `as_of`, so the later one keeps the position alive.
        moment = max(position.time, position.as_of - RECENT)
        try:
            answer = await self._make("AT_TIMESTAMP", Timestamp=moment)
        except InvalidCall as error:
            if self._sdk.time - moment <= CLOCKS_DIFFER:
                # For the host that was asked it may lie in the future.
                raise TransientFailure(
                    "the clocks of DynamoDB differ about the last seconds: try again", retry_after=_SOON
                ) from error
            raise UnsupportedCapability(
                "the endpoint knows no AT_TIMESTAMP: switch at_timestamp off in the connection's settings",
                reason=CapabilityName.POINT_IN_TIME.value,
            ) from error
        self._check_proof(position)
        return _spot(answer)

    async def _from_horizon(self, position: Position) -> Spot:
        """Read from the oldest record, without what lies before the position: all that follows it is still there.

        Raises CheckpointExpired when that is not known.
        """
        if position.kind is Kind.BEFORE:
            raise expired()
        spot = _spot(await self._make("TRIM_HORIZON"))
        self._check_proof(position)
        match position.kind:
            case Kind.AFTER:
                spot.drop = lambda record: sequence_of(record) <= position.sequence
            case Kind.NOW:
                spot.drop = lambda record: created_of(record) < position.time
            case _:
                spot.since = self._sdk.time - _RETENTION_SECONDS
        return spot

    def _check_proof(self, position: Position) -> None:
        if position.kind is Kind.AFTER and not position.proven:
            raise expired()
        self.check_age(position)

    async def _make(self, kind: str, **where: object) -> Answer:
        self.calls += 1
        try:
            answer = await self._sdk.call("GetShardIterator", **self._shard, ShardIteratorType=kind, **where)
        except ShardGone:
            self.exists = False
            raise
        self.exists = True
        return answer


def _spot(made: Answer, *, tip: bool = False) -> Spot:
    return Spot(iterator=made.body, tip=tip, not_before=monotonic())
