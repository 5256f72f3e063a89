"""What a process does while it loads: loading is most of the time until a gateway serves."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Import within it what the process needs.

    Loading makes much and no garbage, so nobody looks for any meanwhile, nor later in what was loaded. Structlog comes
    without rich, which it would draw tracebacks with that we do not show (`app.logs`): 80 modules fewer.
    """
    gc.disable()
    try:
        if "rich" not in sys.modules:
            sys.modules["rich"] = None  # type: ignore[assignment]  # an import of it fails
            try:
                import structlog as structlog
            finally:
                del sys.modules["rich"]
        yield
    finally:
        gc.freeze()
        gc.enable()
