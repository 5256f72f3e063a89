"""One bound on the memory of pages in hand, over all streams of the process."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.page import EncodedPage

_PATIENCE: Final = timedelta(seconds=1)
"""How long a consumer may keep a message waiting while other streams wait for room."""

_CHANGE_BYTES: Final = 1_500
"""What a change and its record take beside the text of the item: key, ids, cursor, the objects themselves."""

_COPIES: Final = 2
"""Of a message that is being sent: the joined records, and gRPC's own copy of them."""


class PageBudget:
    """Bytes of the pages that streams have in hand: read, read ahead, or on their way to a consumer.

    A page that several streams share is counted once, their messages are counted each. Who waits for room has none
    that others wait for, so whatever is held is on its way to a consumer, and comes back: taken, or by the end of the
    stream whose consumer has kept it waiting longest. Room is given in the order of asking. What is larger than the
    budget has its turn when nothing else is held.
    """

    def __init__(self, max_bytes: int, *, patience: timedelta = _PATIENCE) -> None:
        self.held = 0
        """Bytes in hand now."""
        self._max_bytes = max_bytes
        self._patience = patience.total_seconds()
        self._waiters: deque[_Waiter] = deque()
        self._origins: dict[int, _Counted] = {}
        self._offering: dict[Share, float] = {}
        """Streams with a page that wait for their consumer, and since when; the longest comes first."""
        self._timer: asyncio.TimerHandle | None = None

    def share(self, end: Callable[[], None]) -> "Share":
        """What one stream holds; `end` is called when it has to give it back, while it waits for its consumer."""
        return Share(self, end)

    def fits(self, size: int) -> bool:
        """Whether there is room now, and nobody has waited for it before."""
        return self._has_room(size) and (not self._waiters or all(waiter.granted.done() for waiter in self._waiters))

    async def wait(self, size: int) -> None:
        """Count bytes as held once there is room for them."""
        if self.fits(size):
            self.held += size
            return
        waiter = _Waiter(size, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._press()
        try:
            await waiter.granted
        except asyncio.CancelledError:
            self.change(0 if waiter.granted.cancelled() else -size)
            raise

    def change(self, by: int) -> None:
        """Hold more or less; what came free goes to those who wait."""
        self.held += by
        while self._waiters and (self._waiters[0].granted.done() or self._has_room(self._waiters[0].size)):
            waiter = self._waiters.popleft()
            if not waiter.granted.done():
                self.held += waiter.size
                waiter.granted.set_result(None)
        if self._waiters:
            self._press()

    def count(self, origins: Sequence[EncodedPage]) -> int:
        """Bytes that a page of these origins adds: those of the ones that nobody else has in hand."""
        size = 0
        for origin in origins:
            if id(origin) not in self._origins:
                size += _bytes(origin)
        return size

    def add_origins(self, origins: Sequence[EncodedPage]) -> int:
        """Note that one more has a page of these origins in hand; answers the bytes that this adds."""
        added = 0
        for origin in origins:
            counted = self._origins.get(id(origin))
            if counted is None:
                counted = self._origins[id(origin)] = _Counted(origin, _bytes(origin))
                added += counted.size
            counted.hands += 1
        return added

    def remove_origins(self, page: EncodedPage) -> int:
        """Note that one has it in hand no more; answers the bytes that this frees."""
        freed = 0
        for origin in _distinct(page):
            counted = self._origins[id(origin)]
            counted.hands -= 1
            if not counted.hands:
                freed += counted.size
                del self._origins[id(origin)]
        return freed

    def offering(self, share: "Share", now: float) -> None:
        """A stream waits for its consumer from now on, by the loop's clock."""
        self._offering[share] = now
        if self._waiters:
            self._press()

    def taken(self, share: "Share") -> None:
        """Its consumer took what it was offered, or the stream ended."""
        self._offering.pop(share, None)

    def _has_room(self, size: int) -> bool:
        return self.held + size <= self._max_bytes or not self.held

    def _press(self) -> None:
        """While somebody waits for room: see to it that whoever keeps it longest does not keep it for ever."""
        if self._timer is None and self._waiters and self._offering:
            since = next(iter(self._offering.values()))
            self._timer = asyncio.get_running_loop().call_at(since + self._patience, self._end_longest)

    def _end_longest(self) -> None:
        self._timer = None
        if self._waiters and self._offering:
            share, since = next(iter(self._offering.items()))
            if since + self._patience <= monotonic():
                del self._offering[share]
                share.end()
                return  # it presses on when it has given back what it held
        self._press()


class Share:
    """What one stream holds of the budget. Close it in every case."""

    def __init__(self, budget: PageBudget, end: Callable[[], None]) -> None:
        self.end = end
        self._budget = budget
        self._holds: set[Hold] = set()

    async def reserve(self, size: int) -> "Hold":
        """Room for a page that is about to be read, as soon as there is some."""
        await self._budget.wait(size)
        return self._opened(Hold(self._budget, self._holds, size))

    def nothing(self) -> "Hold":
        """A hold without room, for a page whose size is not known before it is read."""
        return self._opened(Hold(self._budget, self._holds, 0))

    def offer(self, now: float) -> None:
        """A consumer is offered something: until it has `taken` it the stream may be ended if others need its room."""
        if self._holds:
            self._budget.offering(self, now)

    def taken(self) -> None:
        """The consumer took what it was offered, or the stream ends."""
        self._budget.taken(self)

    def close(self) -> None:
        """Give everything back."""
        for hold in list(self._holds):
            hold.release()

    def _opened(self, hold: "Hold") -> "Hold":
        self._holds.add(hold)
        return hold


class Hold:
    """Room for one page, as large as the page once it is there; reserved before where there was none at first."""

    def __init__(self, budget: PageBudget, among: "set[Hold]", size: int) -> None:
        self._budget, self._among = budget, among
        self._own = size
        self._page: EncodedPage | None = None

    def settle(self, page: EncodedPage, *, max_message_bytes: int) -> int:
        """Hold a page, and the room of one message of it.

        Answers 0, or for a page without a reservation the bytes that there is no room for now.
        """
        if self not in self._among:
            return 0  # the stream has ended
        if not page.content.changes:
            self._own, reserved = 0, self._own
            self._budget.change(-reserved)
            return 0
        message = _COPIES * min(max_message_bytes, page.weight or _message_bytes(page))
        origins = _distinct(page)
        size = self._budget.count(origins) + message
        if not self._own and not self._budget.fits(size):
            return size
        reserved, self._page, self._own = self._own, page, message
        self._budget.change(self._budget.add_origins(origins) + message - reserved)
        return 0

    def release(self) -> None:
        """Give it back, once or more often."""
        if self in self._among:
            self._among.remove(self)
            freed = self._own + (self._budget.remove_origins(self._page) if self._page is not None else 0)
            self._page = None
            self._budget.change(-freed)


@dataclass(slots=True, eq=False)
class _Waiter:
    size: int
    granted: asyncio.Future[None]


@dataclass(slots=True)
class _Counted:
    origin: EncodedPage
    """Kept, so that its identity is nobody else's."""
    size: int
    hands: int = 0


def _distinct(page: EncodedPage) -> Sequence[EncodedPage]:
    if len(page.origins) == 1:
        return page.origins
    return list({id(origin): origin for origin in page.origins}.values())


def _bytes(page: EncodedPage) -> int:
    """What the changes of a page and their records take, whether they are encoded already or not."""
    return _CHANGE_BYTES * len(page.content.changes) + page.text_bytes.held + page.text_bytes.encoded


def _message_bytes(page: EncodedPage) -> int:
    """Of the records of a page, which may be part of what it came from."""
    if page.weight is None:
        came_from = sum(len(origin.content.changes) for origin in page.origins)
        encoded = sum(origin.text_bytes.encoded for origin in page.origins)
        page.weight = len(page.content.changes) * (encoded // max(1, came_from) + _CHANGE_BYTES // 4)
    return page.weight
