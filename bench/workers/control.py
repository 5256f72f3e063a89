"""How a worker and the measurement talk: a line each way, then the answer."""

import sys
import threading
from collections.abc import Callable


def ready() -> None:
    """Say that preparation is over and wait for the start."""
    print("ready", flush=True)
    if sys.stdin.readline().strip() != "go":
        sys.exit("not started")


def when_told_to_finish(act: Callable[[], object]) -> None:
    """Run something in a thread once the measurement says that the end has come."""

    def wait() -> None:
        sys.stdin.read()
        act()

    threading.Thread(target=wait, daemon=True).start()
