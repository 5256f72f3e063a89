"""The tails of one provider, and the readers of its streams that are at none."""

import asyncio
from collections.abc import Sequence

from changefeed_gateway.core.answer import ChangeEncoder
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import Address, Feed
from changefeed_gateway.core.pace import IdlePlaces
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.core.reader import DirectReader, PatientReader, ReaderOfOwnTask, SharedReader
from changefeed_gateway.core.ring_budget import RingBudget
from changefeed_gateway.core.shared import SharedQuestion
from changefeed_gateway.core.tail import Tail, TailKey
from changefeed_gateway.core.turns import Turns


class Tails:
    """The tails of one provider; a stream joins one, or reads by itself."""

    def __init__(
        self, provider: Provider, encoder: ChangeEncoder, limits: Limits, budget: RingBudget | None = None
    ) -> None:
        """`budget` is shared by the tails of all providers of a process."""
        self.direct = DirectReader(provider, encoder)
        self.patient = PatientReader(self.direct, limits)
        self._of_tails = PatientReader(ReaderOfOwnTask(self.direct), limits)
        self._shared = SharedReader(self.direct, limits)
        self.catching_up = PatientReader(self._shared, limits)
        self._limits = limits
        self.turns = Turns()
        self.idle = IdlePlaces()
        """Of those who read page by page, and not at a tail."""
        self.budget = budget or RingBudget(limits.ring_bytes)
        self._tails: dict[TailKey, Tail] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._provider = provider
        self._opening: SharedQuestion[Feed] = SharedQuestion(at_once=limits.max_streams)

    async def open_feed(self, address: Address) -> Feed:
        """As the provider does; those who ask at the same time share an answer that is no older than the question."""
        return await self._opening.ask(address, lambda: self._provider.open_feed(address))

    @property
    def under_way(self) -> Sequence[Tail]:
        """The tails that somebody follows."""
        return tuple(self._tails.values())

    @property
    def catch_up(self) -> SharedReader:
        """What reads for streams that are not at a tail."""
        return self._shared

    def find(self, key: TailKey) -> Tail | None:
        """The tail that a stream may join; one that has finished is none."""
        tail = self._tails.get(key)
        return None if tail is None or tail.finished else tail

    def join(self, feed: Feed, key: TailKey) -> Tail:
        """Follow a tail, starting one if there is none."""
        tail = self.find(key)
        if tail is None:
            tail = self._tails[key] = Tail(self._of_tails, self._limits, self.budget, self.turns, feed, key)
            self._ending.add(tail.task)
            tail.task.add_done_callback(self._ending.discard)
        tail.followers += 1
        return tail

    def leave(self, tail: Tail) -> None:
        """Stop following; the last one stops the tail. Awaits nothing, so that no cancellation can leave it undone."""
        tail.followers -= 1
        if tail.followers == 0:
            if self._tails.get(tail.key) is tail:
                del self._tails[tail.key]
            tail.close()

    def begin_drain(self) -> None:
        """Every waiting read answers at once, now and from now on."""
        self.direct.begin_drain()
        for tail in self._tails.values():
            tail.drain()

    async def aclose(self) -> None:
        """Stop every tail and every read under way."""
        for tail in self._tails.values():
            tail.close()
        self._tails.clear()
        if self._ending:
            await asyncio.wait(set(self._ending))
        await self._opening.aclose()
        await self._shared.aclose()
        await self.direct.aclose()
