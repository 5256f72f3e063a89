"""When to try again, and when not."""

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    wait_random_exponential,
)

from changefeed_client.errors import ChangeFeedRpcError, StreamInterrupted

T = TypeVar("T")

_BACKOFF: Final = wait_random_exponential(multiplier=0.1, max=15)
"""Seconds: up to 0.1, then 0.2, 0.4 and so on."""
_LONGEST_PAUSE: Final = 600.0
"""Seconds, whatever the gateway asks for: nobody who asks for a day can mean it of a stream."""
_JITTER: Final = 0.2
"""Part that is added at random to a pause the gateway asks for, so that clients do not return all at once."""


_log = logging.getLogger("changefeed_client")


def announce(error: BaseException, pause: float, attempt: int) -> None:
    """Tell an outage to the log, once, however often it is tried in vain. Takes what `before_pause` is given."""
    level = logging.WARNING if attempt == 1 else logging.DEBUG
    _log.log(level, "interrupted, again in %.1f s: %s", pause, error)


def is_retryable(error: BaseException) -> bool:
    """Whether the same call may succeed later; CHECKPOINT_EXPIRED, for one, is final."""
    match error:
        case ChangeFeedRpcError():
            return error.retryable
        case _:
            return isinstance(error, StreamInterrupted)


async def retry(
    call: Callable[[], Awaitable[T]],
    *,
    patience: timedelta | None,
    before_pause: Callable[[BaseException, float, int], None] = lambda error, seconds, attempt: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """Repeat a call until it succeeds, fails for good, or an outage outlasts `patience` (None: never).

    Pauses grow from call to call and are never shorter than the gateway asks for; where it asks for longer than
    patience is left, that is the end. `before_pause` is told the error, the pause in seconds, and how many tries
    failed; what `sleep` raises ends it. Raises the last error.
    """

    def tell(state: RetryCallState) -> None:
        before_pause(_error(state), state.upcoming_sleep, state.attempt_number)

    outage = _Outage(patience)
    retrying = AsyncRetrying(
        sleep=sleep,
        retry=retry_if_exception(is_retryable),
        wait=outage.pause,
        stop=outage.is_over,
        before_sleep=tell,
        reraise=True,
    )
    return await retrying(call)


class _Outage:
    """Begins with the first failure: the time that a healthy stream had nothing to say before it is no part of it."""

    def __init__(self, patience: timedelta | None) -> None:
        self._patience = math.inf if patience is None else patience.total_seconds()
        self._began: float | None = None

    def pause(self, state: RetryCallState) -> float:
        """Seconds until the next try, which patience bounds: the last one is at its end."""
        asked = _asked(state)
        jitter = 1 + random.uniform(0, _JITTER)  # noqa: S311 - no secret
        return min(max(_BACKOFF(state), asked * jitter), max(asked, self._left(state)))

    def is_over(self, state: RetryCallState) -> bool:
        """Whether there will be no other try."""
        left = self._left(state)
        return left <= 0 or _asked(state) > left

    def _left(self, state: RetryCallState) -> float:
        now = state.outcome_timestamp or state.start_time
        self._began = now if self._began is None else self._began
        return self._began + self._patience - now


def _asked(state: RetryCallState) -> float:
    """Seconds that the gateway asks to wait."""
    asked: timedelta | None = getattr(_error(state), "retry_after", None)
    return min(max(asked.total_seconds(), 0), _LONGEST_PAUSE) if asked else 0


def _error(state: RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome else None
    if error is None:
        raise ValueError("a call that succeeded is not retried")
    return error
