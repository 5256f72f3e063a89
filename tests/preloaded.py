"""Our command line in processes of its own that need not load it: a process that has loaded it forks for each.

Loading takes most of a second of a core, and the tests begin hundreds of commands and gateways. A copy becomes in every
respect what a new process would be, and loads the command line's own modules, which look at terminal and environment.
How a process begins is shown by those that are begun the usual way: tests/cli/test_start.py, tests/docs and the demo.
For Linux, as the tests are.
"""

import asyncio
import atexit
import gc
import json
import os
import resource
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
from asyncio.base_subprocess import BaseSubprocessTransport
from asyncio.subprocess import DEVNULL, PIPE, Process, SubprocessStreamProtocol
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

COMMAND: Final = "changefeed_gateway.cli"
LATER: Final = (
    "changefeed_gateway.app.operations",
    "changefeed_gateway.app.serving",
    "changefeed_gateway.providers.memory.provider",
    "changefeed_gateway.providers.postgres.provider",
)
"""What commands load when they come to it."""

_LARGEST: Final = 2**20
_NUMBER: Final = struct.Struct("i")


async def start_command(
    *arguments: str,
    directory: Path,
    environment: Mapping[str, str],
    out: int = PIPE,
    err: int = PIPE,
    files: int | None = None,
) -> Process:
    """As `create_subprocess_exec` of `python -m changefeed_gateway.cli`, without standard input.

    `files` is how many it may have open; as many as this process unless given.
    """
    loop = asyncio.get_running_loop()
    protocol = SubprocessStreamProtocol(limit=2**16, loop=loop)
    connected = loop.create_future()
    order = {
        "arguments": arguments,
        "directory": str(directory),
        "environment": dict(environment),
        "files": files,
    }
    transport = _Transport(loop, protocol, (COMMAND,), False, DEVNULL, out, err, 0, connected, order=order)
    await connected
    return Process(transport, protocol, loop)


# --- Here


class _Transport(BaseSubprocessTransport):
    """What asyncio makes of a subprocess, for one that somebody else has started and waits for."""

    def _start(  # type: ignore[override]
        self, args: object, shell: bool, stdin: int, stdout: int, stderr: int, bufsize: int, *, order: dict[str, Any]
    ) -> None:
        self._proc = copy = _Copy(order, stdout, stderr)  # type: ignore[assignment]
        self._loop.add_reader(copy.told, self._ended, copy)

    def _ended(self, copy: "_Copy") -> None:
        self._loop.remove_reader(copy.told)
        self._process_exited(copy.end())


class _Copy:
    """A process, as far as asyncio needs `subprocess.Popen`."""

    stdin = None

    def __init__(self, order: dict[str, Any], out: int, err: int) -> None:
        self.returncode: int | None = None
        self.told, telling = os.pipe()
        self.stdout, out = _pipe(out)
        self.stderr, err = _pipe(err)
        socket.send_fds(_preloaded(), [json.dumps(order).encode()], [out, err, telling])
        os.close(telling)
        for number, stream in ((out, self.stdout), (err, self.stderr)):
            if stream is not None:
                os.close(number)
        [self.pid] = _NUMBER.unpack(os.read(self.told, _NUMBER.size))

    def end(self) -> int:
        """Once it has ended: its exit code, or the signal that ended it, negative."""
        [self.returncode] = _NUMBER.unpack(os.read(self.told, _NUMBER.size))
        os.close(self.told)
        return self.returncode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        # Until its end has been taken the number is nobody else's.
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def _pipe(chosen: int) -> tuple[IO[bytes] | None, int]:
    """Our end, if a pipe was asked for, and theirs."""
    if chosen != PIPE:
        return None, chosen
    ours, theirs = os.pipe()
    return open(ours, "rb", buffering=0), theirs


@cache
def _preloaded() -> socket.socket:
    """Gives orders to the process that has loaded the command line, which ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.preloaded", str(theirs.fileno())],
            cwd=Path(__file__).parents[1],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# --- There


class _Order(NamedTuple):
    arguments: list[str]
    directory: str
    environment: dict[str, str]
    files: int | None
    streams: list[int]
    """Output, errors, and where to tell how it goes."""


class _Running(NamedTuple):
    """A copy, by the file that says when it has ended."""

    pid: int
    telling: int


class _Told(NamedTuple):
    """A copy that has ended, by where that was told; the other end is closed once it was taken."""

    pid: int


def _main() -> None:
    _load()
    order = _next_order(socket.socket(fileno=int(sys.argv[1])))
    _become(order)
    runpy.run_module(COMMAND, run_name="__main__", alter_sys=True)


def _load() -> None:
    """All but the command line's own modules. A copy has no thread but its own, so none may run."""
    import_module(f"{COMMAND}.main").app_for([])
    for module in LATER:
        import_module(module)
    for module in [name for name in sys.modules if f"{name}.".startswith(f"{COMMAND}.")]:
        del sys.modules[module]
    assert threading.active_count() == len(os.listdir("/proc/self/task")) == 1
    gc.freeze()


def _next_order(orders: socket.socket) -> _Order:
    """Returns in each copy, and in no other process: the first one ends when nobody can give orders any more."""
    selector = selectors.DefaultSelector()
    selector.register(orders, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if isinstance(key.data, _Running):
                selector.unregister(key.fileobj)
                os.close(key.fd)
                _tell_end(key.data)
                selector.register(key.data.telling, selectors.EVENT_READ, _Told(key.data.pid))
                continue
            if isinstance(key.data, _Told):
                selector.unregister(key.fileobj)
                os.close(key.fd)
                os.waitpid(key.data.pid, 0)
                continue
            text, streams, _, _ = socket.recv_fds(orders, _LARGEST, 3, socket.MSG_CMSG_CLOEXEC)
            if not text:
                sys.exit()
            pid = os.fork()
            if pid == 0:
                for other in selector.get_map().values():
                    os.close(other.fd)
                    if isinstance(other.data, _Running):
                        os.close(other.data.telling)
                return _Order(**json.loads(text), streams=streams)
            out, err, telling = streams
            os.close(out)
            os.close(err)
            os.write(telling, _NUMBER.pack(pid))
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, _Running(pid, telling))


def _tell_end(copy: _Running) -> None:
    """Leave it to be waited for, so that whoever signals it before they know of its end meets nobody else."""
    ended = os.waitid(os.P_PID, copy.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
    with suppress(BrokenPipeError):
        os.write(copy.telling, _NUMBER.pack(code))


def _become(order: _Order) -> None:
    """Be where a new process would be: in its directory, with its environment, its streams and its arguments."""
    out, err, _ = order.streams
    os.dup2(out, 1)
    os.dup2(err, 2)
    for number in order.streams:
        os.close(number)
    if order.files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (order.files, order.files))
    os.environ.clear()
    os.environ.update(order.environment)
    os.chdir(order.directory)
    sys.path[0] = order.directory
    sys.argv = [COMMAND, *order.arguments]
    sys.stdout = _stream(1, sys.stdout, line_buffering=os.isatty(1))
    sys.stderr = _stream(2, sys.stderr, line_buffering=True)


def _stream(number: int, like: Any, *, line_buffering: bool) -> Any:
    return open(
        number, "w", closefd=False, encoding=like.encoding, errors=like.errors, buffering=1 if line_buffering else -1
    )


if __name__ == "__main__":
    _main()
