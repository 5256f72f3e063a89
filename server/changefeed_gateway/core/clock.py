"""The clock by which waits are measured."""

import asyncio


def monotonic() -> float:
    """Seconds of the running loop's clock, which goes on whatever happens to the time of day."""
    return asyncio.get_running_loop().time()
