"""A cancellation ends the call that was cancelled, and no other."""

import asyncio
from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import Final

from changefeed_gateway.core.errors import Reason, TransientFailure


def cut_short() -> TransientFailure:
    """The error for who waits for something that somebody else ended, such as a gateway that is closing."""
    return TransientFailure(
        "the gateway ended what the call waited for, because it is closing it: connect again",
        reason=Reason.DRAINING,
        retry_after=timedelta(seconds=1),
    )


class _OnlyOwnCancellation:
    """Keeps nothing, so that one serves every stream for as long as that lasts."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                raise cut_short() from error


_ONLY_OWN: Final = _OnlyOwnCancellation()


def only_own_cancellation() -> AbstractContextManager[None]:
    """Raise TransientFailure for a cancellation that nobody asked of the task that runs the block.

    What several callers wait for together, and a task that somebody else ended, raise CancelledError too; gRPC would
    answer nothing then, and the caller would wait until its deadline.
    """
    return _ONLY_OWN
