"""Ticks: what a snapshot sees, and which batch a change belongs to. Pure.

Batch n holds the changes that tick n's snapshot sees and tick n-1's does not, in the order of their sequence numbers.
P2: so every consumer sees the same order; a second writer of a row waits for the first one's commit and comes later.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from operator import le
from typing import Final, NamedTuple

_NOBODY: frozenset[int] = frozenset()
_DAY: Final = timedelta(days=1)


class Tick(NamedTuple):
    """One tick. Ids of one feed follow each other without a hole."""

    id: int
    xmin: int
    """Every transaction below has ended before the tick."""
    xmax: int
    """No transaction at or above it had ended when the tick was made."""
    xip: frozenset[int]
    """Those between that were under way."""
    last_seq: int
    """The sequence's last number, read before the tick took its own transaction id; 0 when none was drawn."""
    xid: int
    """The tick's own transaction."""
    at: datetime
    """When it was made, read after its snapshot was taken."""
    topology: int = 1
    """The last tick, up to this one, at which the physical partitions changed."""
    day: int | None = None
    """The day floor's value, read before the tick took its own transaction id; None where there was none."""


def parse_snapshot(text: str) -> tuple[int, int, frozenset[int]]:
    """Read the text of a pg_snapshot, `xmin:xmax:xip,...`. Raises ValueError for anything else."""
    xmin, xmax, xip = text.split(":")
    return int(xmin), int(xmax), frozenset(map(int, xip.split(","))) if xip else _NOBODY


def snapshot_text(tick: Tick) -> str:
    """Write a tick's snapshot as a pg_snapshot reads it."""
    return f"{tick.xmin}:{tick.xmax}:{','.join(map(str, sorted(tick.xip)))}"


class Days(NamedTuple):
    """Times in which rows may lie."""

    starts: datetime
    ends: datetime
    """Not itself one of them."""


ALL_DAYS: Final = Days(datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


def day_of(value: int) -> Days:
    """The day that a value of the day floor stands for."""
    starts = datetime.fromtimestamp((value >> 40) * 86400, UTC)
    return Days(starts, starts + _DAY)


def days_between(before: Tick | None, after: Tick | None) -> Days:
    """P1: where every row lies that is not older than a base tick, as far as the ticks around it tell.

    `before` is the tick before the base: what is written after the base was dated after that tick had read the day
    floor. `after` is one whose own reading comes after all the rows: where the value is the same, none was dated beyond
    its day. docs/decisions/0021 has the proof.
    """
    if before is None or before.day is None:
        return ALL_DAYS
    day = day_of(before.day)
    return day if after is not None and after.day == before.day else Days(day.starts, ALL_DAYS.ends)


def visible(xid: int, tick: Tick) -> bool:
    """Whether a transaction that left rows is seen by a tick; the same answer as pg_visible_in_snapshot."""
    return xid < tick.xmin or (xid < tick.xmax and xid not in tick.xip)


def finished_between(base: Tick, to: Tick) -> list[int]:
    """Transactions that were under way at `base` and had ended at `to`, in ascending order."""
    return sorted(xid for xid in base.xip if visible(xid, to))


def first_seeing(xid: int, ticks: Sequence[Tick], xmaxes: Sequence[int]) -> int | None:
    """Index of the first of successive ticks that sees a transaction; None when none of them does.

    `xmaxes` are the ticks' xmax, which never fall from one tick to the next.
    """
    index = bisect_right(xmaxes, xid)
    while index < len(ticks) and xid in ticks[index].xip:
        index += 1
    return index if index < len(ticks) else None


def last_within(ticks: Sequence[Tick], target: int) -> int:
    """Index of the last tick up to which about `target` changes follow the first one of `ticks`; at least 1."""
    limit = ticks[0].last_seq + target
    return max(1, bisect_right(ticks, limit, key=lambda tick: tick.last_seq) - 1)


def batches_of(xids: Iterable[int], ticks: Sequence[Tick]) -> dict[int, int]:
    """The batch of each transaction: the id of the first of successive ticks that sees it.

    Raises ValueError for one that none of them sees.
    """
    xmaxes = [tick.xmax for tick in ticks]
    found = {}
    for xid in xids:
        index = first_seeing(xid, ticks, xmaxes)
        if index is None:
            raise ValueError(f"no tick up to {ticks[-1].id} sees transaction {xid}")
        found[xid] = ticks[index].id
    return found


def reading_order(batches: Sequence[int]) -> list[int] | None:
    """Row numbers in the order of their batches; None when they already stand so.

    Rows come in the order of their sequence numbers and keep it within a batch.
    """
    if all(map(le, batches, islice(batches, 1, None))):
        return None
    return sorted(range(len(batches)), key=batches.__getitem__)
