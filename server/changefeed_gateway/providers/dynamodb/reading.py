"""Reads one shard for everybody in this process: one call at a time, shared by all who ask for the same."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from changefeed_gateway.core.errors import CheckpointExpired, InvalidRequest, Reason, TransientFailure
from changefeed_gateway.providers.dynamodb.cursor import Kind, Position, after, at_time, before, horizon
from changefeed_gateway.providers.dynamodb.errors import ExpiredIterator
from changefeed_gateway.providers.dynamodb.iterators import RECENT, RETENTION_SECONDS, Iterators, Spot
from changefeed_gateway.providers.dynamodb.mapping import Record, created_of, sequence_of
from changefeed_gateway.providers.dynamodb.service import Service

MOST_RECORDS: Final = 1_000
"""That GetRecords gives at once."""

_LONG_AGO: Final = 3_600
"""Seconds: a tip that was proven earlier is looked for anew."""
_FEW: Final = 3
_MANY: Final = 20
_PROOF: Final = 10
"""Empty pages in a row that show that nothing lies ahead: one alone may stand before records."""
_ITERATORS: Final = 3
"""Iterators tried for one read: each may expire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often an idle shard is asked."""

    shortest_pause: timedelta = timedelta(milliseconds=250)
    """After records, or the first empty page; doubled by each further one."""
    longest_pause: timedelta = timedelta(seconds=2)


class Fetched(NamedTuple):
    """What one call brought."""

    records: Sequence[Record]
    as_of: int
    """Nothing beyond what was read is older than this, as far as that was found out; 0 where it was not."""
    ended: bool
    """The shard is closed, and nothing follows."""
    at_tip: bool
    """Nothing more seems to be there now."""


class ShardReader:
    """One shard of one stream.

    The service allows two readers a shard, over all consumers together, so this process is one: calls follow each
    other, and readers at the same place share theirs.
    """

    def __init__(
        self, service: Service, stream_arn: str, shard_id: str, pace: Pace, *, times: bool, granularity: int
    ) -> None:
        """`times`: the endpoint may be asked for AT_TIMESTAMP. `granularity`: seconds to which it rounds times down."""
        self._service = service
        self._pace = pace
        self._granularity = granularity
        self._iterators = Iterators(service, stream_arn, shard_id, times=times, granularity=granularity)
        self._pages = 0
        """Asked for, so far."""
        self._one_at_a_time = asyncio.Lock()
        self._one_answer_of_now = asyncio.Lock()
        self._tip: Position | None = None
        """The place of the reader that came furthest."""
        self._next: dict[tuple[Position, int], asyncio.Task[Fetched]] = {}
        """Calls that have not begun: shared by all who ask before they do, and whose places are as old."""
        self._under_way: tuple[tuple[Position, int], asyncio.Task[Fetched]] | None = None

    @property
    def calls(self) -> int:
        """To the service, so far."""
        return self._pages + self._iterators.calls

    # --- Where to start

    async def beginning(self) -> Position | None:
        """Before the oldest record: by its number, so that losing it is noticed.

        None where the shard has ended and holds nothing.
        """
        fetched = await self._look(horizon(self._service.time), 1)
        if fetched.records:
            return before(sequence_of(fetched.records[0]), created_of(fetched.records[0]))
        return None if fetched.ended else horizon(fetched.as_of)

    async def now(self) -> Position:
        """After everything that is there."""
        if self._granularity > 1:
            return await self._end()
        while True:
            while (tip := self._known_tip()) is not None:
                try:
                    fetched = await self.fetch(tip, MOST_RECORDS)
                except CheckpointExpired:
                    # What was trimmed there lies before now all the same.
                    self._forget(tip)
                else:
                    if not fetched.records:
                        return tip.seen_empty(fetched.as_of)
            async with self._one_answer_of_now:
                if self._known_tip() is None:
                    self._tip = tip = await self._iterators.latest()
                    return tip

    def _known_tip(self) -> Position | None:
        """Where a reader of this process stands that has just seen the end."""
        spot = self._iterators.known(self._tip) if self._tip is not None else None
        if self._tip is None or spot is None or _clock() > spot.not_before + RECENT:
            return None
        # A token of an old place would not live a day: the service's clock goes on while this process is suspended.
        aged = self._service.time - max(self._tip.as_of, spot.as_of) > _LONG_AGO
        return None if aged else self._tip

    def _forget(self, tip: Position) -> None:
        if self._tip == tip:
            self._tip = None

    async def _end(self) -> Position:
        """After the last record, found by reading: coarse times would not tell it from those before."""
        position = horizon(self._service.time)
        while (fetched := await self._look(position, MOST_RECORDS)).records:
            for record in fetched.records:
                position = after(position, sequence_of(record), created_of(record))
        return position.seen_empty(self._service.time if fetched.ended else fetched.as_of)

    async def _look(self, position: Position, limit: int) -> Fetched:
        """What follows a position, or the proof that nothing does: one empty page is none."""
        while True:
            fetched = await self.fetch(position, limit)
            proven = self._service.time - fetched.as_of <= RECENT
            if fetched.records or fetched.ended or proven:
                return fetched

    async def at_time(self, moment: datetime) -> Position:
        """Before the first record at or after a time.

        Raises InvalidRequest, CheckpointExpired, UnsupportedCapability.
        """
        second = int(moment.timestamp())
        if second > self._service.time:
            raise InvalidRequest.field("start_position.at_time", "lies in the future: name a time up to now")
        if second < self._service.time - RETENTION_SECONDS:
            raise CheckpointExpired(
                "DynamoDB Streams keeps 24 hours: start at a later time, from beginning or now",
                reason=Reason.START_TIME_BEFORE_RETENTION,
            )
        position = at_time(second // self._granularity * self._granularity)
        async with self._one_at_a_time:
            await self._iterators.find(position)
        return position

    async def check(self, position: Position) -> None:
        """See whether the history after a position is there, as `fetch` does."""
        await self.fetch(position, 1)

    def check_age(self, position: Position) -> None:
        """See whether nothing beyond a position can have been trimmed yet. Raises CheckpointExpired."""
        self._iterators.check_age(position)

    async def check_lives(self) -> None:
        """See whether the service still knows the shard. Raises ShardGone."""
        await self._iterators.check_lives()

    # --- Reading

    async def fetch(self, position: Position, limit: int, *, join: bool = False) -> Fetched:
        """What follows a position; `join`: a call that is under way will do, which may miss what was written since.

        Raises CheckpointExpired, ShardGone, StreamGone and the errors of the service.
        """
        key = position, limit
        task = self._next.get(key)
        if task is None and join and self._under_way is not None and self._under_way[0] == key:
            task = self._under_way[1]
        if task is None:
            task = self._next[key] = asyncio.create_task(self._fetch(position, limit))
            # Everybody who waits may be gone before it fails.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        # Whoever waits may be cancelled: the call goes on in its thread all the same.
        return await asyncio.shield(task)

    def delay(self, position: Position) -> float:
        """Seconds until it is time to ask again for what follows a position where nothing was."""
        spot = self._iterators.known(position)
        return max(0.0, spot.not_before - _clock()) if spot else 0.0

    async def _fetch(self, position: Position, limit: int) -> Fetched:
        key = position, limit
        async with self._one_at_a_time:
            # Who asks from now on may know of a write that this call will not see.
            self._under_way = key, self._next.pop(key)
            try:
                return await self._get_records(position, limit)
            finally:
                self._under_way = None

    async def _get_records(self, position: Position, limit: int) -> Fetched:
        for _ in range(_ITERATORS):
            spot = await self._iterators.find(position)
            if spot.iterator is None:
                self._pause(spot)
                return Fetched((), spot.as_of, ended=True, at_tip=True)
            self._pages += 1
            try:
                answer = await self._service.call("GetRecords", ShardIterator=spot.iterator, Limit=limit)
            except ExpiredIterator:
                self._iterators.forget(position)
            except CheckpointExpired:
                self._iterators.forget(position)
                # Before everything is further on by now. Whether nothing was lost there, the position's age tells.
                if position.kind is not Kind.HORIZON:
                    raise
            else:
                return self._take(position, spot, answer.body, answer.whole.get("NextShardIterator"), answer.time)
        raise TransientFailure(
            "the iterators of DynamoDB Streams expire as soon as they are made: try again",
            retry_after=timedelta(seconds=1),
        )

    def _take(self, position: Position, spot: Spot, found: Sequence[Record], following: str | None, at: int) -> Fetched:
        records = [record for record in found if not (spot.drop and spot.drop(record))]
        spot.iterator = following
        if not records:
            return self._nothing(position, spot, at, seen=bool(found))
        if position.kind is Kind.NOW and spot.tip:
            self._iterators.note_first(position, sequence_of(records[0]))
        # The place that was read has lost its iterator to the one after the records.
        self._iterators.forget(position)
        reached = after(position, sequence_of(records[-1]), created_of(records[-1]))
        self._iterators.keep(reached, Spot(following, None))
        if self._tip is None or position.place == self._tip.place or _is_ahead(reached, self._tip):
            self._tip = reached
        return Fetched(records, 0, ended=following is None, at_tip=False)

    def _nothing(self, position: Position, spot: Spot, at: int, *, seen: bool) -> Fetched:
        if seen:
            spot.empty_pages = 0
        else:
            spot.empty_since = spot.empty_since or at
            spot.empty_pages += 1
        # The last page of a shard that has ended proves nothing of what its children hold.
        if spot.iterator is not None and spot.empty_pages and spot.empty_pages % _PROOF == 0:
            spot.as_of, spot.empty_since = spot.empty_since, at
        recent = spot.tip or at - position.as_of <= RECENT
        at_tip = spot.iterator is None or spot.empty_pages >= (1 if spot.tip else _FEW if recent else _MANY)
        self._pause(spot)
        if not at_tip:
            spot.not_before = _clock()
        if at_tip and self._tip is None:
            self._tip = position
        return Fetched((), spot.as_of, ended=spot.iterator is None, at_tip=at_tip)

    def _pause(self, spot: Spot) -> None:
        longest, shortest = self._pace.longest_pause.total_seconds(), self._pace.shortest_pause.total_seconds()
        spot.pause = min(longest, 2 * spot.pause) if spot.pause else shortest
        spot.not_before = _clock() + spot.pause


def _is_ahead(one: Position, other: Position) -> bool:
    return other.kind is Kind.AFTER and one.sequence > other.sequence


def _clock() -> float:
    return asyncio.get_running_loop().time()
