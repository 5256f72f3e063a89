"""How a worker and the measurement talk: a line each way, then the answer."""

import sys
import threading
from collections.abc import Callable


def ready() -> float:
    """Say that preparation is over and wait for the start; answers the time of the clock that it was given for it."""
    print("ready", flush=True)
    command, _, begin_at = sys.stdin.readline().partition(" ")
    if command != "go":
        sys.exit("not started")
    return float(begin_at)


def when_told_to_finish(act: Callable[[], object]) -> None:
    """Run something in a thread once the measurement says that the end has come."""

    def wait() -> None:
        sys.stdin.read()
        act()

    threading.Thread(target=wait, daemon=True).start()
