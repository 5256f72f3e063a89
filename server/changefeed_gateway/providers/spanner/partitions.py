"""The partitions of a change stream: those of a moment, which is one query, and how they descend from one another."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from graphlib import TopologicalSorter
from typing import Final, NamedTuple

from changefeed_gateway.core.errors import ProviderFailure
from changefeed_gateway.core.model import Partition, PartitionId, PartitionState
from changefeed_gateway.core.refusals import ForTheCaller
from changefeed_gateway.core.shared import SharedQuestion
from changefeed_gateway.core.together import gather
from changefeed_gateway.providers.spanner import instants
from changefeed_gateway.providers.spanner.errors import OutsidePartition, TooFarPast, unknown
from changefeed_gateway.providers.spanner.query import StreamQueries
from changefeed_gateway.providers.spanner.reading import PartitionReader

_ANCIENT: Final = instants.SECOND
"""Before every change stream."""
_MARGIN: Final = timedelta(minutes=1)
"""What a position at the edge of the retention needs to be read before it is gone."""
_LIFE: Final = 60.0
"""Seconds of a query that asks which partitions there are."""
_AT_ONCE: Final = 8
_MOST: Final = 100_000
"""Partitions of one listing."""


class Census(NamedTuple):
    """Which partitions there were at a time."""

    time: int
    tokens: tuple[str, ...]


@dataclass(slots=True)
class _Known:
    """A partition, as far as its descent is known: none of it changes any more."""

    parents: tuple[str, ...] = ()
    end: int | None = None
    children: tuple[str, ...] = ()


class Topology:
    """The partitions of one change stream. Methods raise `ForTheCaller` and the errors of the service."""

    def __init__(
        self, queries: StreamQueries, retention: timedelta, make_reader: Callable[[str], PartitionReader]
    ) -> None:
        self._queries, self._retention = queries, retention
        self._make_reader = make_reader
        self._known: dict[str, _Known] = {}
        self._questions: SharedQuestion[Census] = SharedQuestion(at_once=3, foreseen=ForTheCaller)
        self._listings: SharedQuestion[list[Partition]] = SharedQuestion(foreseen=ForTheCaller)

    def close(self) -> None:
        """End what is under way; who waits is told so."""
        self._questions.close()
        self._listings.close()

    async def at_now(self) -> Census:
        """Those of this moment: whatever commits after the answer lies after its time."""
        return await self._questions.ask("now", self._at_now)

    async def at_beginning(self) -> Census:
        """Those of the earliest moment from which all that follows will be there while it is read."""
        return await self._questions.ask("beginning", self._at_beginning)

    async def at(self, time: int) -> Census:
        """Those of a moment. Raises TooFarPast."""
        return await self._questions.ask(time, lambda: self._at(time))

    async def all(self) -> list[Partition]:
        """Every partition that holds what is retained, parents before their children."""
        return await self._listings.ask("all", self._all)

    async def _at_now(self) -> Census:
        return await self._at(await self._queries.sdk.now())

    async def _at_beginning(self) -> Census:
        return await self._at(await self._earliest())

    async def _at(self, time: int) -> Census:
        return Census(time, tuple(await self._queries.sdk.retries.retrying()(self._ask, time)))

    async def _ask(self, time: int) -> list[str]:
        patience = self._queries.sdk.retries.answer_timeout.total_seconds()
        query = await self._queries.open(None, time, time, life=_LIFE)
        try:
            found = (await query.ending(patience)).children
        finally:
            query.close()
        if not found:
            raise ProviderFailure("the change stream names no partition")
        return list(dict.fromkeys(child.token for child in found))

    async def _earliest(self) -> int:
        """The earliest moment that can be read; Spanner says it only to who asks for an earlier one."""
        try:
            await self._at(_ANCIENT)
        except TooFarPast as past:
            if past.earliest is None:
                raise unknown("a query for the earliest moment") from past
            if is_creation(past.earliest, await self._queries.sdk.now(), self._retention):
                return past.earliest
            # It moves on while it is read.
            return past.earliest + instants.of_timedelta(margin(self._retention))
        raise unknown("a query for the earliest moment")

    # --- Descent

    async def _all(self) -> list[Partition]:
        roots = await self.at_beginning()
        alive = set((await self.at_now()).tokens)
        found: dict[str, _Known] = {}
        generation: Sequence[str] = roots.tokens
        gate = asyncio.Semaphore(_AT_ONCE)

        async def look(token: str) -> _Known:
            async with gate:
                return await self._descend(token, alive)

        while generation:
            known = await gather(look(token) for token in generation)
            found |= dict(zip(generation, known, strict=True))
            if len(found) > _MOST:
                raise ProviderFailure("the change stream's partitions do not end")
            children = dict.fromkeys(child for one in known for child in one.children)
            generation = [child for child in children if child not in found]
        self._known = found
        return [
            Partition(
                partition_id=PartitionId(token),
                parents=tuple(PartitionId(parent) for parent in found[token].parents if parent in found),
                state=PartitionState.ACTIVE if found[token].end is None else PartitionState.RETIRED,
            )
            for token in _in_order(found)
        ]

    async def _descend(self, token: str, alive: Iterable[str]) -> _Known:
        known = self._known.get(token) or _Known()
        if token in alive or known.end is not None:
            return known
        reader = self._make_reader(token)
        try:
            await reader.probe(await self._queries.sdk.now())
        except OutsidePartition as outside:
            if outside.last is None:
                raise unknown("a query at the end of a partition") from outside
            children = await reader.children_at(outside.last)
            for child in children:
                self._known.setdefault(child.token, _Known(parents=child.parents))
            # At once: a listing that takes longer than its caller waits would begin again for ever.
            known = self._known[token] = _Known(known.parents, outside.last, tuple(child.token for child in children))
            return known
        # It began after the others were counted.
        return known


def _in_order(found: Mapping[str, _Known]) -> list[str]:
    graph = {token: [parent for parent in known.parents if parent in found] for token, known in found.items()}
    return list(TopologicalSorter(graph).static_order())


def margin(retention: timedelta) -> timedelta:
    """What tells times near the edge of the retention apart, and gives a reader time to begin there."""
    return min(_MARGIN, retention / 10)


def is_creation(earliest: int, now: int, retention: timedelta) -> bool:
    """Whether the earliest moment is when the stream was made, and not the edge of its retention, which moves."""
    return earliest > now - instants.of_timedelta(retention - margin(retention))
