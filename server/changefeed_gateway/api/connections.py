"""How many connections there may be, in all and of one host, whether somebody calls on them or not.

gRPC bounds them in all, and closes the next one whoever comes. It tells of a connection only with a call, so what one
host holds is counted among the open files of the process, and what is beyond its share is shut down there.
"""

import asyncio
import os
import resource
import socket
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

from changefeed_gateway.api.admission import host_of_address
from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.supervision import Done, Supervisor

_FILES_OF_OUR_OWN: Final = 256
"""For databases, certificates, logs: what is no connection of a caller."""

_OPEN_FILES: Final = Path("/proc/self/fd")
"""Linux; elsewhere a host's connections are bounded only by the calls on them."""
_LONGEST_PAUSE: Final = 1.0
"""Seconds between two looks."""
_SHORTEST_PAUSE: Final = 0.05
"""The same while somebody goes on to come with too many: the places of others must not fill up in between."""
_TELL_EVERY: Final = 1.0
"""Seconds between two lines of the log."""

_log: FilteringBoundLogger = structlog.get_logger(__name__)


def most_connections(limits: Limits) -> int:
    """As many as may be, and leave files to the databases: a process without any can neither accept nor serve."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return limits.max_connections
    return min(limits.max_connections, max(1, most - min(_FILES_OF_OUR_OWN, most // 2)))


def most_of_one_host(limits: Limits) -> int:
    """So many that there are as many left for others."""
    return min(limits.peer_connections, max(1, most_connections(limits) // 2))


class HostShare:
    """The connections of a port by the hosts that they come from; of each host those stay that were there first."""

    def __init__(self, port: int, most: int) -> None:
        self._port, self._most = port, most
        self._hosts: dict[int, str] = {}
        """By inode, in the order in which they were first seen; empty for what is no connection of the port."""
        self._supervisor = Supervisor()

    def start(self) -> None:
        """Look at intervals until closed."""
        if _OPEN_FILES.is_dir():
            self._supervisor.keep("connections of one host", self._keep)

    async def aclose(self) -> None:
        """Look no more; idempotent."""
        await self._supervisor.aclose()

    async def _keep(self, done: Done) -> None:
        pause, untold, told_at = _LONGEST_PAUSE, Counter[str](), monotonic()
        while True:
            await asyncio.sleep(pause)
            closed = await asyncio.to_thread(self.enforce)
            pause = _SHORTEST_PAUSE if closed else min(2 * pause, _LONGEST_PAUSE)
            untold += closed
            if untold and monotonic() - told_at >= _TELL_EVERY:
                _tell(untold)
                untold, told_at = Counter(), monotonic()
            done()

    def enforce(self) -> Counter[str]:
        """Close what is too much; answers how many of each host. Blocks for some microseconds a file."""
        names = os.listdir(_OPEN_FILES)
        if len(names) <= self._most:
            return Counter()
        files = dict(found for name in names if (found := _socket_file(int(name))) is not None)
        self._hosts = {inode: host for inode, host in self._hosts.items() if inode in files}
        for inode, file in files.items():
            if inode not in self._hosts and (host := self._host(file, inode)) is not None:
                self._hosts[inode] = host
        return Counter(self._hosts[inode] for inode in self._too_many() if _shut_down(files[inode], inode))

    def _too_many(self) -> list[int]:
        by_host: defaultdict[str, list[int]] = defaultdict(list)
        for inode, host in self._hosts.items():
            if host:
                by_host[host].append(inode)
        return [inode for inodes in by_host.values() for inode in inodes[self._most :]]

    def _host(self, file: int, inode: int) -> str | None:
        """Where a socket of the port is connected to; None where that cannot be said, or not yet."""
        with suppress(OSError), _held(file, inode) as held:
            if held.family in (socket.AF_INET, socket.AF_INET6) and held.getsockname()[1] == self._port:
                return host_of_address(held.getpeername()[0])
            return ""
        return None


def _tell(closed: Counter[str]) -> None:
    ((host, count),) = closed.most_common(1)
    _log.warning(
        "connections were closed: their host has its share (limits.peer_connections)",
        count=closed.total(),
        hosts=len(closed),
        most_of=host,
        of_it=count,
    )


def _socket_file(file: int) -> tuple[int, int] | None:
    """The inode of a socket, and its file; None for what is none, or is gone."""
    with suppress(OSError):
        about = os.fstat(file)
        if stat.S_ISSOCK(about.st_mode):
            return about.st_ino, file
    return None


@contextmanager
def _held(file: int, inode: int) -> Iterator[socket.socket]:
    """A socket by a file of our own, so that it stays the same one meanwhile. Raises OSError when it is gone."""
    with ExitStack() as stack:
        copy = os.dup(file)
        stack.callback(os.close, copy)
        if os.fstat(copy).st_ino != inode:
            raise OSError("another file by now")
        held = socket.socket(fileno=copy)
        stack.callback(held.detach)
        yield held


def _shut_down(file: int, inode: int) -> bool:
    with suppress(OSError), _held(file, inode) as held:
        held.shutdown(socket.SHUT_RDWR)
        return True
    return False
