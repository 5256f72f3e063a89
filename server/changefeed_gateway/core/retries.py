"""How a failing service is asked again, within one read."""

from dataclasses import dataclass
from datetime import timedelta

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from changefeed_gateway.core.errors import Reason, Throttled, TransientFailure


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """How often, and after which pauses."""

    attempts: int = 5
    first_pause: timedelta = timedelta(milliseconds=100)
    """Doubled by each further one."""
    longest_pause: timedelta = timedelta(seconds=2)

    def waiting(self) -> wait_exponential_jitter:
        """The pauses between attempts."""
        return wait_exponential_jitter(
            multiplier=self.first_pause.total_seconds(),
            max=self.longest_pause.total_seconds(),
            jitter=self.first_pause.total_seconds(),
        )

    def retrying(self) -> AsyncRetrying:
        """Calls what it is called with until that does not fail with what passes soon, or for the last time."""
        return AsyncRetrying(
            retry=retry_if_exception(passes_soon),
            wait=self.waiting(),
            stop=stop_after_attempt(self.attempts),
            reraise=True,
        )


def passes_soon(error: BaseException) -> bool:
    """Whether to ask again within the read that failed.

    Not after a time-out: the call may still be under way there, and another one beside it would be a reader too many.
    """
    final = (Reason.PROVIDER_TIMEOUT.value, Reason.DRAINING.value)
    return isinstance(error, Throttled | TransientFailure) and error.reason not in final
