"""How long the tests with random inputs run, and whether the inputs are new ones: `make soak` chooses."""

import os
import random
from typing import Final

_CHOSEN: Final = os.environ.get("SOAK_SECONDS")

SOAKING: Final = _CHOSEN is not None
"""Inputs are new in every run. Otherwise they are the same: whether a change may land must not be luck."""


def soak_seconds(usual: float) -> float:
    """How long a test runs that takes `usual` seconds in `make test`."""
    return usual if _CHOSEN is None else float(_CHOSEN)


def hangs_after(seconds: float) -> float:
    """Seconds after which a test that takes about `seconds` is given up: a busy machine may take many times as long."""
    return 340 + seconds * (20 if SOAKING else 4)


def soak_dice() -> random.Random:
    """What decides at random; says by which SOAK_SEED the same decisions come again."""
    seed = int(os.environ.get("SOAK_SEED", random.randrange(10**6) if SOAKING else 0))
    print(f"SOAK_SEED={seed}")
    return random.Random(seed)
