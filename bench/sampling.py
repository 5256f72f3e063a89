"""A sampling profile of the main thread, by the processor-time timer: nothing is traced, so nothing looks too dear.

Time in C code counts for the Python line that called it, because the signal is handled when that call returns.
"""

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple

_INTERVAL_SECONDS: Final = 0.001


class Place(NamedTuple):
    """A line of a function."""

    function: str
    file: str
    line: int


class Sampler:
    """Counts where the main thread is, once a millisecond of processor time."""

    def __init__(self) -> None:
        self._own: Counter[Place] = Counter()
        self._within: Counter[tuple[str, str]] = Counter()
        self._samples = 0

    def start(self) -> None:
        """Begin; the main thread must call it."""
        signal.signal(signal.SIGPROF, self._take)
        signal.setitimer(signal.ITIMER_PROF, _INTERVAL_SECONDS, _INTERVAL_SECONDS)

    def stop(self) -> None:
        """End."""
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if frame is None:
            return
        self._samples += 1
        self._own[_place(frame)] += 1
        self._within.update({(at.function, at.file) for at in _stack(frame)})

    def to_json(self) -> str:
        """The counts."""
        return json.dumps(
            {
                "samples": self._samples,
                "own": [[*place, count] for place, count in self._own.most_common()],
                "within": [[*place, count] for place, count in self._within.most_common()],
            }
        )


def _stack(frame: FrameType | None) -> Iterator[Place]:
    while frame is not None:
        yield _place(frame)
        frame = frame.f_back


def _place(frame: FrameType) -> Place:
    code = frame.f_code
    return Place(code.co_qualname, code.co_filename, frame.f_lineno)


def top_functions(file: Path, count: int = 25) -> list[tuple[str, float, float]]:
    """The functions in which most time was spent: name, own share, share with all they call."""
    counts = json.loads(file.read_text())
    own: Counter[tuple[str, str]] = Counter()
    for function, path, _, samples in counts["own"]:
        own[function, path] += samples
    within = {(function, path): samples for function, path, samples in counts["within"]}
    total = max(1, counts["samples"])
    return [
        (f"{_short(path)} {function}", samples / total, within[function, path] / total)
        for (function, path), samples in own.most_common(count)
    ]


def top_lines(file: Path, count: int = 25) -> list[tuple[str, float]]:
    """The lines in which most time was spent: place, own share."""
    counts = json.loads(file.read_text())
    total = max(1, counts["samples"])
    return [
        (f"{_short(path)}:{line} {function}", samples / total)
        for function, path, line, samples in counts["own"][:count]
    ]


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-3:])
