"""Child processes that do one job and answer with one JSON value, and what processes have cost."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

ROOT = Path(__file__).parent.parent

Answer = dict[str, Any]
"""What a worker prints: its measurements, JSON."""


class WorkerFailed(Exception):
    """A worker ended without an answer; its standard error has been shown."""


class Worker:
    """One `python -m bench.workers NAME` under way: it says ready, waits for go, then prints its answer."""

    def __init__(self, name: str, job: Mapping[str, object]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.workers", name, json.dumps(job)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def await_ready(self) -> None:
        """Wait until the worker has done what is not measured."""
        if self._read_line() != "ready":
            raise WorkerFailed(f"{self.name} did not get ready")

    def go(self, begin_at: float = 0.0) -> None:
        """Let it begin, or tell it a time of the clock to begin at."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"go {begin_at!r}\n")
        self._process.stdin.flush()

    def finish(self) -> None:
        """Tell a worker that runs until told to come to its end."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def answer(self) -> Answer:
        """Wait for its answer and its end."""
        line = self._read_line()
        self._process.wait()
        if not line:
            raise WorkerFailed(f"{self.name} ended with {self._process.returncode} and no answer")
        answer: Answer = json.loads(line)
        return answer

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def run_worker(name: str, job: Mapping[str, object]) -> Answer:
    """Run one worker from start to end."""
    with Worker(name, job) as worker:
        worker.await_ready()
        worker.go()
        return worker.answer()


def own_cost() -> Answer:
    """CPU seconds and peak memory of this process so far; for workers."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu": usage.ru_utime + usage.ru_stime, "peak_rss_mb": usage.ru_maxrss / 1024}


class CpuMeter:
    """CPU seconds that a process and its children have used since this was made, those that ended included."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._before = _cpu_total(self._process)

    def seconds(self) -> float:
        """CPU seconds since the beginning."""
        return _cpu_total(self._process) - self._before


class ForeignLoad:
    """Processor cores that everything but this measurement has used since this was made: how far to trust figures."""

    def __init__(self) -> None:
        self._ours = CpuMeter(os.getpid())
        self._busy = _machine_busy()
        self._began = time.perf_counter()

    def cores(self) -> float:
        """Mean number of cores."""
        seconds = time.perf_counter() - self._began
        return max(0.0, _machine_busy() - self._busy - self._ours.seconds()) / seconds

    def __str__(self) -> str:
        return f"Everything else on the machine used {self.cores():.2f} cores meanwhile."


def _machine_busy() -> float:
    times = psutil.cpu_times()
    return float(sum(times)) - times.idle - getattr(times, "iowait", 0.0)


def _cpu_total(process: psutil.Process) -> float:
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            # A process is charged with the children that it has waited for.
            total += sum(each.cpu_times()[:4])
    return total


def cpu_since_start(pid: int) -> float:
    """CPU seconds of a process and its children since they began, those that ended included."""
    return _cpu_total(psutil.Process(pid))


def rss_mb(pid: int) -> float:
    """Resident memory now, in MB."""
    return float(psutil.Process(pid).memory_info().rss) / 2**20


def reset_peak_rss(pid: int) -> None:
    """Let the kernel's peak begin anew, where it can (Linux)."""
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_rss_mb(pid: int) -> float:
    """The kernel's peak of resident memory in MB; without one, what is resident now."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return rss_mb(pid)
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) / 1024
