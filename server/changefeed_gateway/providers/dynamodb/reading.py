"""Reads one shard for everybody in this process: one call at a time, shared by all who ask for the same."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import dropwhile
from typing import Any, Final, NamedTuple

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import CheckpointExpired, InvalidRequest, Reason, TransientFailure
from changefeed_gateway.core.pace import Pace
from changefeed_gateway.core.refusals import ForTheCaller
from changefeed_gateway.core.shared import SharedQuestion
from changefeed_gateway.providers.dynamodb.cursor import Kind, Position, after, at_time, before, horizon
from changefeed_gateway.providers.dynamodb.empty_run import RECENT, EmptyRun
from changefeed_gateway.providers.dynamodb.errors import ExpiredIterator
from changefeed_gateway.providers.dynamodb.iterators import LIFE_SECONDS, Iterators, Spot
from changefeed_gateway.providers.dynamodb.mapping import Record, created_of, sequence_of
from changefeed_gateway.providers.dynamodb.sdk import Answer, Sdk

MOST_RECORDS: Final = 1_000
"""That GetRecords gives at once."""

_FULL_BYTES: Final = 200_000
"""A page of so many may be full: GetRecords gives 1 MB at once, and the next record may have two images of 400 kB."""
_LONG_AGO: Final = 3_600
"""Seconds: a tip that was proven earlier is looked for anew."""
_CATCH_UPS: Final = 3
"""Full pages read from a known tip before a new one is made."""
_ITERATORS: Final = 3
"""Iterators tried for one read: each may expire."""


class Fetched(NamedTuple):
    """What one call brought."""

    records: Sequence[Record]
    as_of: int
    """Nothing beyond what was read is older than this, as far as that was found out; 0 where it was not."""
    ended: bool
    """The shard is closed, and nothing follows."""
    at_tip: bool
    """Nothing more seems to be there now."""
    full: bool = False
    """There may have been no room for more."""

    def end(self, position: Position) -> Position:
        """Where a reader is that began at a position."""
        if not self.records:
            return position.seen_empty(self.as_of)
        return after(sequence_of(self.records[-1]), created_of(self.records[-1]))


class ShardReader:
    """One shard of one stream.

    The service allows two readers a shard, over all consumers together, so this process is one: calls follow each
    other, and readers at the same place share theirs.
    """

    def __init__(self, sdk: Sdk, stream_arn: str, shard_id: str, pace: Pace, *, times: bool, granularity: int) -> None:
        """`times`: the endpoint may be asked for AT_TIMESTAMP. `granularity`: seconds to which it rounds times down."""
        self._sdk = sdk
        self._pace = pace
        self._granularity = granularity
        self._iterators = Iterators(sdk, stream_arn, shard_id, times=times, granularity=granularity)
        self._pages = 0
        """Asked for, so far."""
        self._questions = SharedQuestion[Any](goes_on=True, foreseen=ForTheCaller)
        self._tip: Position | None = None
        """The place of the reader that saw the end last, and where it went from there."""
        self._saw_end_at = 0.0
        """When it did, on the monotonic clock."""

    @property
    def calls(self) -> int:
        """To the service, so far."""
        return self._pages + self._iterators.calls

    @property
    def exists(self) -> bool:
        """Whether the service knew the shard when it was asked last."""
        return self._iterators.exists

    def close(self) -> None:
        """End what is under way; who waits is told so."""
        self._questions.close()

    # --- Where to start

    async def beginning(self) -> Position | None:
        """Before the oldest record: by its number, so that losing it is noticed.

        None where the shard has ended and holds nothing.
        """
        fetched = await self._look(horizon(self._sdk.time), 1)
        if fetched.records:
            return before(sequence_of(fetched.records[0]), created_of(fetched.records[0]))
        return None if fetched.ended else horizon(fetched.as_of)

    async def now(self) -> Position:
        """After everything that is there: behind a page with room for more that was asked for since."""
        if self._granularity > 1:
            return await self._end()
        for _ in range(_CATCH_UPS):
            tip = self._known_tip()
            if tip is None:
                break
            try:
                fetched = await self.fetch(tip, MOST_RECORDS)
            except CheckpointExpired:
                # What was trimmed there lies before now all the same.
                if self._tip == tip:
                    self._tip = None
                break
            if not fetched.full:
                return fetched.end(tip)
        found: Position = await self._questions.ask("latest", self._latest)
        return found

    async def _latest(self) -> Position:
        self._tip, self._saw_end_at = await self._iterators.latest(), monotonic()
        return self._tip

    def _known_tip(self) -> Position | None:
        """Where a reader of this process stands that has just seen the end."""
        spot = self._iterators.known(self._tip) if self._tip is not None else None
        if self._tip is None or spot is None or monotonic() > self._saw_end_at + RECENT:
            return None
        # A token of an old place would not live a day: the service's clock goes on while this process is suspended.
        aged = self._sdk.time - max(self._tip.as_of, spot.run.as_of) > _LONG_AGO
        return None if aged else self._tip

    async def _end(self) -> Position:
        """After the last record, found by reading: coarse times would not tell it from those before."""
        position = horizon(self._sdk.time)
        while True:
            fetched = await self._look(position, MOST_RECORDS)
            position = fetched.end(position)
            if fetched.ended and not fetched.records:
                return position.seen_empty(self._sdk.time)
            if not fetched.full:
                return position

    async def _look(self, position: Position, limit: int) -> Fetched:
        """What follows a position, or the proof that nothing does: one empty page is none."""
        while True:
            fetched = await self.fetch(position, limit)
            proven = self._sdk.time - fetched.as_of <= RECENT
            if fetched.records or fetched.ended or proven:
                return fetched

    async def at_time(self, moment: datetime) -> Position:
        """Before the first record at or after a time.

        Raises InvalidRequest, CheckpointExpired, UnsupportedCapability.
        """
        second = int(moment.timestamp())
        if second > self._sdk.time:
            raise InvalidRequest.field("start_position.at_time", "lies in the future: name a time up to now")
        if second < self._sdk.time - LIFE_SECONDS:
            raise CheckpointExpired(
                "DynamoDB Streams keeps 24 hours: start at a later time, from beginning or now",
                reason=Reason.START_TIME_BEFORE_RETENTION,
            )
        position = at_time(second // self._granularity * self._granularity)
        await self._questions.ask(("find", position), partial(self._iterators.find, position))
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
        # The whole position: what is shared must be as old for all, or its history may be gone for some.
        key = "fetch", position, limit
        fetched: Fetched = await self._questions.ask(key, partial(self._get_records, position, limit), join=join)
        return fetched

    def delay(self, position: Position) -> float:
        """Seconds until it is time to ask again for what follows a position where nothing was."""
        spot = self._iterators.known(position)
        return max(0.0, spot.not_before - monotonic()) if spot else 0.0

    async def _get_records(self, position: Position, limit: int) -> Fetched:
        for _ in range(_ITERATORS):
            spot = await self._iterators.find(position)
            if spot.iterator is None:
                return self._nothing(position, spot, self._sdk.time)
            self._pages += 1
            try:
                answer = await self._sdk.call("GetRecords", ShardIterator=spot.iterator, Limit=limit)
            except ExpiredIterator:
                self._iterators.forget(position)
            except CheckpointExpired:
                self._iterators.forget(position)
                # Before everything is further on by now. Whether nothing was lost there, the position's age tells.
                if position.kind is not Kind.HORIZON:
                    raise
            else:
                return self._take(position, spot, answer, limit)
        raise TransientFailure(
            "the iterators of DynamoDB Streams expire as soon as they are made: try again",
            retry_after=timedelta(seconds=1),
        )

    def _take(self, position: Position, spot: Spot, answer: Answer, limit: int) -> Fetched:
        found: Sequence[Record] = answer.body
        # Only what stands before the first record that is wanted: one that follows may be older by a clock that fell
        # back.
        records = list(dropwhile(spot.drop, found)) if spot.drop else found
        spot.iterator = answer.whole.get("NextShardIterator")
        if not records:
            if found:
                spot.run = EmptyRun(as_of=spot.run.as_of)
            return self._nothing(position, spot, answer.time, seen=bool(found))
        if position.kind is Kind.NOW and spot.tip:
            self._iterators.note_first(position, sequence_of(records[0]))
        full = len(found) >= limit or sum(record["dynamodb"].get("SizeBytes", 0) for record in found) >= _FULL_BYTES
        at_tip = not full and answer.time - created_of(records[-1]) <= RECENT
        fetched = Fetched(records, 0, ended=spot.iterator is None, at_tip=at_tip, full=full)
        self._move(position, fetched.end(position), spot.iterator, at_tip=at_tip)
        return fetched

    def _move(self, position: Position, reached: Position, iterator: str | None, *, at_tip: bool) -> None:
        # The place that was read has lost its iterator to the one after the records.
        self._iterators.forget(position)
        self._iterators.keep(reached, Spot(iterator=iterator, not_before=monotonic()))
        if self._tip is not None and position.place == self._tip.place:
            self._tip = reached
        if at_tip:
            self._saw_end(reached)

    def _saw_end(self, position: Position) -> None:
        tip = self._tip
        further = position.kind is Kind.AFTER and (
            tip is None or tip.kind is not Kind.AFTER or position.sequence > tip.sequence
        )
        if tip is None or further:
            self._tip = tip = position
        if position.place == tip.place:
            self._saw_end_at = monotonic()

    def _nothing(self, position: Position, spot: Spot, at: int, *, seen: bool = False) -> Fetched:
        ended = spot.iterator is None
        if not seen:
            # The last page of a shard that has ended proves nothing of what its children hold.
            run = spot.run.another(at)
            spot.run = run._replace(as_of=spot.run.as_of) if ended else run
        at_tip = ended or (bool(spot.run.pages) and spot.tip) or spot.run.at_tip(behind=at - position.as_of)
        spot.not_before = monotonic() + (self._pace.pause(spot.run.pages) if at_tip and spot.run.pages else 0.0)
        if at_tip:
            self._saw_end(position)
        return Fetched((), spot.run.as_of, ended=ended, at_tip=at_tip)
