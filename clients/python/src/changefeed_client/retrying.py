"""When to try again, and when not."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_delay,
    stop_never,
    wait_random_exponential,
)

from changefeed_client.errors import ChangeFeedRpcError, StreamInterrupted

T = TypeVar("T")

_BACKOFF: Final = wait_random_exponential(multiplier=0.1, max=15)
"""Seconds: up to 0.1, then 0.2, 0.4 and so on."""
_JITTER: Final = 0.2
"""Part that is added at random to a pause the gateway asks for, so that clients do not return all at once."""


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
) -> T:
    """Repeat a call until it succeeds, fails for good, or `patience` (None: for ever) has passed.

    Pauses grow from call to call and are never shorter than the gateway asks for. Raises the last error.
    """

    def announce(state: RetryCallState) -> None:
        before_pause(_error(state), state.upcoming_sleep, state.attempt_number)

    retrying = AsyncRetrying(
        sleep=asyncio.sleep,
        retry=retry_if_exception(is_retryable),
        wait=_pause,
        stop=stop_never if patience is None else stop_after_delay(patience),
        before_sleep=announce,
        reraise=True,
    )
    return await retrying(call)


def _pause(state: RetryCallState) -> float:
    error = _error(state)
    asked = getattr(error, "retry_after", None) or timedelta(0)
    jitter = 1 + random.uniform(0, _JITTER)  # noqa: S311 - no secret
    return max(_BACKOFF(state), asked.total_seconds() * jitter)


def _error(state: RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome else None
    if error is None:
        raise ValueError("a call that succeeded is not retried")
    return error
