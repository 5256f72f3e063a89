"""The gateway under test: its own process, with a settings file made for the run."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc
import yaml

from bench.processes import ROOT, CpuMeter, cpu_since_start, peak_rss_mb, reset_peak_rss, rss_mb

_START_SECONDS: Final = 30
_STOP_SECONDS: Final = 20


class GatewayFailed(Exception):
    """The gateway did not start; its log says why."""


class Gateway:
    """`changefeed serve` on a free port of this machine, over one PostgreSQL connection named `main`."""

    def __init__(
        self,
        directory: Path,
        dsn: str,
        *,
        profile: Path | None = None,
        limits: dict[str, Any] | None = None,
        connection: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ):
        """Write the settings; `profile` names a file for a sampling profile of the process.

        `credentials` are what callers speak TLS with where the settings ask for it.
        """
        self.settings: Final = {
            "listen": f"127.0.0.1:{free_port()}",
            "state_directory": str(directory / "gateway"),
            "connections": {"main": {"provider": "postgres", "dsn": dsn, **(connection or {})}},
            "logging": {"level": "warning", "format": "json"},
            **({"limits": limits} if limits else {}),
            **(settings or {}),
        }
        self.target: Final = str(self.settings["listen"])
        self._file = directory / "changefeed.yaml"
        self._file.write_text(yaml.safe_dump(self.settings))
        self._log = directory / "gateway.log"
        self._profile = profile
        self._credentials = credentials
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        self.launch()
        assert self._process is not None
        self._await_ready(self._process)

    def launch(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command(), "serve"],
                cwd=ROOT,
                env={**os.environ, "CHANGEFEED_CONFIG": str(self._file)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _command(self) -> list[str]:
        if self._profile is None:
            return [str(Path(sys.executable).with_name("changefeed"))]
        return [sys.executable, "-m", "bench.profiled_gateway", str(self._profile)]

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with self._channel() as channel:
                try:
                    grpc.channel_ready_future(channel).result(timeout=0.5)
                    return
                except grpc.FutureTimeoutError:
                    continue
        self.stop()
        raise GatewayFailed(f"the gateway did not start:\n{self._log.read_text()[-4000:]}")

    def _channel(self) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(self.target)
        return grpc.secure_channel(self.target, self._credentials)

    def stop(self) -> None:
        """End it in good order, or at last by force; idempotent."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """End it as a crash does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def log_tail(self) -> str:
        """Its last words; warnings and errors only."""
        return self._log.read_text()[-2000:]

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def cpu_so_far(self) -> float:
        """Processor seconds since it was started."""
        return cpu_since_start(self.pid)

    def cpu(self) -> CpuMeter:
        """Begin to measure its processor time."""
        return CpuMeter(self.pid)

    def rss_mb(self) -> float:
        """Resident memory now."""
        return rss_mb(self.pid)

    def reset_peak_rss(self) -> None:
        """Let the peak begin anew."""
        reset_peak_rss(self.pid)

    def peak_rss_mb(self) -> float:
        """Highest resident memory since the last reset."""
        return peak_rss_mb(self.pid)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
