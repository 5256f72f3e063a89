"""How much a principal may take: streams, reads a second, bytes a second."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Final

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import Reason, Throttled
from changefeed_gateway.core.policy import Principal, is_among

_MOST_REMEMBERED: Final = 10_000
"""Principals whose account is kept; beyond, those leave that owe nothing and hold nothing."""
_MOST_RECENT: Final = 1_000
"""Principals whose quota is known again: looking for it goes through all their groups."""
_WHEN_A_STREAM_ENDS: Final = timedelta(seconds=5)
"""When a stream too many may come back: nobody knows when another ends."""
_FARTHEST_TURN: Final = 1.0
"""Seconds ahead that turns are told one after the other; beyond, who is refused is told the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What one principal may take; None is as much as there is."""

    principals: tuple[str, ...]
    """As of a grant; the first quota that names a principal is its own, for each of them alone."""
    streams: int | None = None
    reads_per_second: float | None = None
    """Calls, and streams opened; a second's worth may come at once."""
    bytes_per_second: float | None = None
    """Of answers and messages; a second's worth may come at once, and what is more is owed."""


class Allowance:
    """Fills at a rate, up to a second's worth; may be overdrawn. Times are seconds of a clock that never runs back."""

    def __init__(self, rate: float, now: float) -> None:
        """Begin full."""
        self.rate, self._size = rate, max(rate, 1.0)
        self._level, self._at = self._size, now

    def take(self, amount: float, now: float) -> None:
        """Take an amount, and owe what it does not hold."""
        self._fill(now)
        self._level -= amount

    def wait(self, amount: float, now: float) -> float:
        """Seconds until it holds an amount, which is at most its size."""
        self._fill(now)
        return max(0.0, (amount - self._level) / self.rate)

    def is_full(self, now: float) -> bool:
        """Whether nothing was taken that has not come again."""
        self._fill(now)
        return self._level >= self._size

    def _fill(self, now: float) -> None:
        self._level = min(self._size, self._level + (now - self._at) * self.rate)
        self._at = now


def _allowance(rate: float | None, now: float) -> Allowance | None:
    return None if rate is None else Allowance(rate, now)


class Account:
    """What one principal has taken. Only `Quotas.account` makes one."""

    def __init__(self, quota: Quota | None, now: Callable[[], float]) -> None:
        self._now = now
        self._most_streams = None if quota is None else quota.streams
        self._reads = _allowance(None if quota is None else quota.reads_per_second, now())
        self._bytes = _allowance(None if quota is None else quota.bytes_per_second, now())
        self._streams = 0
        self._told: dict[str, float] = {}
        """Until when, by the quota that was used up."""
        self.was_told = False
        """Whether who was refused last was told a time to come back, and did not wait for it.

        Of reads, which tell each another time: whether as many were told as there is room for in a second.
        """

    def begin_read(self) -> None:
        """Count a call or the opening of a stream. Raises Throttled, with the time after which there is room for it.

        Those who are refused at once are told one time each, a read apart: told the same one, they would all come back
        then, for one read, and again.
        """
        self.check_bytes()
        if self._reads is None:
            return
        now = self._now()
        seconds = self._reads.wait(1.0, now)
        if seconds > 0:
            a_read = 1 / self._reads.rate
            next_turn = self._told.get("reads_per_second", 0.0) - now + a_read
            turn = max(seconds, min(next_turn, _FARTHEST_TURN))
            self._refuse(turn, "reads_per_second", ahead=max(0.0, _FARTHEST_TURN - a_read))
        self._reads.take(1.0, now)

    def open_stream(self) -> None:
        """Take a place for a stream; `close_stream` gives it back. Raises Throttled."""
        if self._most_streams is not None and self._streams >= self._most_streams:
            raise self._refusal(
                f"this principal has {self._streams} streams open, its quota", _WHEN_A_STREAM_ENDS, "streams"
            )
        self._streams += 1

    def close_stream(self) -> None:
        """Give a place back."""
        self._streams -= 1

    def check_bytes(self) -> None:
        """Raise Throttled while more was sent than the quota lets: what is owed comes first."""
        if self._bytes is not None:
            self._refuse(self._bytes.wait(0.0, self._now()), "bytes_per_second")

    def sent(self, count: int) -> None:
        """Count bytes that were sent."""
        if self._bytes is not None:
            self._bytes.take(count, self._now())

    @property
    def is_idle(self) -> bool:
        """Whether forgetting it makes no difference."""
        now = self._now()
        return not self._streams and all(each is None or each.is_full(now) for each in (self._reads, self._bytes))

    def _refuse(self, seconds: float, quota: str, *, ahead: float = 0.0) -> None:
        if seconds > 0:
            message = f"this principal's quota of {quota} is used up: come back in {seconds:.2f} s"
            raise self._refusal(message, timedelta(seconds=seconds), quota, ahead=ahead)

    def _refusal(self, message: str, retry_after: timedelta, quota: str, *, ahead: float = 0.0) -> Throttled:
        now = self._now()
        self.was_told = now + ahead < self._told.get(quota, 0.0)
        self._told[quota] = now + retry_after.total_seconds()
        return Throttled(message, reason=Reason.QUOTA_EXCEEDED, retry_after=retry_after, metadata={"quota": quota})


UNLIMITED: Final = Account(None, lambda: 0.0)
"""Of calls that nobody counts."""


class Quotas:
    """The accounts of all principals: one at its limit takes nothing from another."""

    def __init__(self, quotas: Sequence[Quota] = (), *, now: Callable[[], float] = monotonic) -> None:
        self._quotas = tuple(quotas)
        self._now = now
        self._accounts: dict[tuple[str, Quota | None], Account] = {}
        self._quota_of = lru_cache(maxsize=_MOST_RECENT)(self._first_quota)
        self._sweep_at = _MOST_REMEMBERED

    def account(self, principal: Principal) -> Account:
        """The account of a principal; the same one for all its calls, as long as it is in the same groups."""
        quota = self._quota_of(principal)
        account = self._accounts.get((principal.name, quota))
        if account is None:
            self._sweep()
            account = self._accounts[principal.name, quota] = Account(quota, self._now)
        return account

    def _first_quota(self, principal: Principal) -> Quota | None:
        return next((quota for quota in self._quotas if is_among(principal, quota.principals)), None)

    def _sweep(self) -> None:
        if len(self._accounts) >= self._sweep_at:
            self._accounts = {name: account for name, account in self._accounts.items() if not account.is_idle}
            # Twice as many as are busy: looking at all of them stays a small part of making them.
            self._sweep_at = max(_MOST_REMEMBERED, 2 * len(self._accounts))
