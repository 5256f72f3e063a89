"""Faults to order: errors and stalls that a memory provider meets as if its database had them."""

import asyncio

from changefeed_gateway.core.errors import ChangeFeedError


class Stall:
    """Holds reads until it is released."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        """Set when a read is held."""
        self._released = asyncio.Event()

    def release(self) -> None:
        """Let the held reads go on, and all that follow."""
        self._released.set()

    async def hold(self) -> None:
        """Wait for the release."""
        self.entered.set()
        await self._released.wait()


class Faults:
    """What a provider shall suffer; by default nothing."""

    def __init__(self) -> None:
        self.reads = 0
        """Reads begun so far, failed ones included."""
        self.waiting = asyncio.Event()
        """Set when a read has nothing to give and waits; clear it to await the next one."""
        self._failures: dict[int, Exception] = {}
        self._open_failure: ChangeFeedError | None = None
        self._stall: Stall | None = None

    def fail_read(self, error: Exception, *, nth: int = 1) -> None:
        """Raise `error` from the nth read from now on, once; the first is 1."""
        self._failures[self.reads + nth] = error

    def recover(self) -> None:
        """Forget every failure that was ordered and has not come yet."""
        self._failures.clear()
        self._open_failure = None

    def fail_open(self, error: ChangeFeedError | None) -> None:
        """Raise `error` from every `open_feed` and `ping` until told otherwise with None."""
        self._open_failure = error

    def stall_reads(self) -> Stall:
        """Hold every read from now on until the answer is released."""
        self._stall = Stall()
        return self._stall

    async def before_open(self) -> None:
        """Meet the faults of `open_feed` and `ping`; others run meanwhile, as they would while a database answers."""
        await asyncio.sleep(0)
        if self._open_failure is not None:
            raise self._open_failure

    async def before_read(self) -> None:
        """Meet the faults of `read_page`; others run meanwhile here too."""
        self.reads += 1
        failure = self._failures.pop(self.reads, None)
        await asyncio.sleep(0)
        if self._stall is not None:
            await self._stall.hold()
        if failure is not None:
            raise failure
