"""A cancellation ends the call that was cancelled, and no other."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from changefeed_gateway.core.errors import Reason, TransientFailure


def cut_short() -> TransientFailure:
    """The error for who waits for something that somebody else ended, such as a gateway that is closing."""
    return TransientFailure(
        "the gateway ended what the call waited for, because it is closing it: connect again",
        reason=Reason.DRAINING,
        retry_after=timedelta(seconds=1),
    )


@contextmanager
def only_own_cancellation() -> Iterator[None]:
    """Raise TransientFailure for a cancellation that nobody asked of the task that runs the block.

    What several callers wait for together, and a task that somebody else ended, raise CancelledError too; gRPC would
    answer nothing then, and the caller would wait until its deadline.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise cut_short() from error
