"""A PostgreSQL server of our own, for trying the gateway out and for tests.

It listens on a Unix socket in a directory that only its user may enter, and nowhere else. Every process that uses it
holds a shared lock, which dies with the process; the last one out stops the server. So several commands can use one
server at once, nothing is left behind, and what a killed process left running is taken over by the next one.

The Python package that brings the binaries can start servers too. It is not used for that: it opens every parent
directory for reading to everyone when root runs it, cannot set parameters, and after a kill never stops the server.
"""

import asyncio
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

import psutil
import psycopg
import structlog
from psycopg import sql
from psycopg.conninfo import make_conninfo

from changefeed_gateway.providers.postgres.embedded.host import (
    EmbeddedServerError,
    ServiceUser,
    find_binaries,
    find_service_user,
    open_the_way,
    private_directory,
)

_SUPERUSER: Final = "postgres"
_PORT: Final = 5432
_SOCKET_PATH_LIMIT: Final = 100
"""Longest socket path; systems allow 103 bytes or a few more."""
_SECONDS: Final = 60
"""Longest time that a start, a stop or the making of a cluster may take."""

PARAMETERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "jit": "off",
        "max_connections": "200",
        "max_prepared_transactions": "32",
        "max_wal_size": "2GB",
        "timezone": "UTC",
        "unix_socket_permissions": "0700",
    }
)

_PROCESS_OPTIONS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "stdin": subprocess.DEVNULL,
        "stderr": subprocess.STDOUT,
        "cwd": "/",
        "start_new_session": True,  # Ctrl-C is the gateway's, which stops the server last
    }
)

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class EmbeddedPostgres:
    """One server on one data directory; entering the context starts or joins it, leaving it may stop it."""

    def __init__(
        self,
        data_directory: Path,
        *,
        database: str = "changefeed",
        parameters: Mapping[str, str] | None = None,
        binaries: Path | None = None,
    ) -> None:
        """`binaries` is the directory of another server's programs than those of the installed package."""
        self.data_directory = data_directory.absolute()
        self.database = database
        self._parameters = {**PARAMETERS, **(parameters or {})}
        self._chosen_binaries = binaries
        self._service_user: ServiceUser | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._membership: int | None = None

    @property
    def dsn(self) -> str:
        """Connection string of the database, while the server runs."""
        return self._dsn(self.database)

    async def __aenter__(self) -> Self:
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # A half-started server would be left behind.
            await asyncio.wait({starting})
            await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.shield(asyncio.to_thread(self.stop))

    def start(self) -> None:
        """Start the server, or join the one that runs; make data directory and database if there are none. Blocks.

        Raises EmbeddedServerError.
        """
        try:
            self.data_directory.parent.mkdir(parents=True, exist_ok=True)
            self._service_user = find_service_user(self.data_directory)
            with self._changing():
                self._join()
                if not self._running():
                    self._make_cluster()
                    self._start_server()
                self._make_database()
        except (OSError, subprocess.SubprocessError, psycopg.Error) as error:
            self.stop()
            raise EmbeddedServerError(f"embedded PostgreSQL did not start: {error}") from error

    def stop(self) -> None:
        """Leave the server, and stop it if nobody else uses it. Blocks; idempotent."""
        if self._membership is None:
            return
        with self._changing():
            last = self._leave()
            if last and self._running():
                self._stop_server()
            elif self._process:
                self._process.returncode = 0  # not ours to wait for any more
            self._process = None

    def restart(self) -> None:
        """Stop the server under all who use it, as an operator would, and start it again. Blocks."""
        with self._changing():
            if self._running():
                self._stop_server()
            self._start_server()

    # --- Who uses the server

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One process at a time starts or stops the server."""
        lock = os.open(self._beside("start.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _join(self) -> None:
        if self._membership is None:
            self._membership = os.open(self._beside("users.lock"), os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._membership, fcntl.LOCK_SH)

    def _leave(self) -> bool:
        """Give up the membership; answers whether it was the last one."""
        membership, self._membership = self._membership, None
        if membership is None:
            return False
        try:
            fcntl.flock(membership, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(membership)
        return True

    def _beside(self, suffix: str) -> Path:
        return self.data_directory.with_name(f"{self.data_directory.name}.{suffix}")

    # --- The server

    def _running(self) -> bool:
        """Whether a server has this data directory; the trace of a dead one is removed."""
        lines = self._pid_file()
        if not lines:
            return False
        try:
            process = psutil.Process(int(lines[0]))
            if process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE:
                return True
        except (psutil.NoSuchProcess, ValueError):
            pass
        # PostgreSQL itself believes a number that another process has by now, as after a container's restart.
        (self.data_directory / "postmaster.pid").unlink(missing_ok=True)
        return False

    @cached_property
    def binaries(self) -> Path:
        """The directory of the server's programs, such as pg_dump. Raises EmbeddedServerError when there are none."""
        return self._chosen_binaries or find_binaries(self.data_directory)

    def _make_cluster(self) -> None:
        if (self.data_directory / "PG_VERSION").exists():
            return
        # Made beside and moved, so that an interrupted start leaves nothing that looks whole.
        draft = self._beside("new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        if self._service_user:
            os.chown(draft, self._service_user.uid, self._service_user.gid)
            open_the_way(self._service_user, draft)
            open_the_way(self._service_user, self.binaries / "initdb")
        _log.info("creating the embedded database", data_directory=str(self.data_directory))
        self._run(
            *("initdb", "-D", str(draft), "-U", _SUPERUSER, "--encoding=UTF8", "--locale=C"),
            *("--auth-local=trust", "--auth-host=reject", "--no-instructions"),
        )
        draft.rename(self.data_directory)

    def _start_server(self) -> None:
        if self._service_user:
            open_the_way(self._service_user, self.data_directory)
            open_the_way(self._service_user, self.binaries / "postgres")
        parameters = {
            **self._parameters,
            "listen_addresses": "",
            "port": str(_PORT),
            "unix_socket_directories": f'"{self._socket_directory()}"',
        }
        with open(self.data_directory / "server.log", "ab") as log:
            # Our child, not pg_ctl's: who stops it also reaps it, whatever runs as process 1.
            self._process = subprocess.Popen(  # noqa: S603 - our own binaries and arguments
                self._command(
                    *("postgres", "-D", str(self.data_directory)),
                    *(f"--{name}={value}" for name, value in parameters.items()),
                ),
                stdout=log,
                **_PROCESS_OPTIONS,
            )
        self._await_ready(self._process)

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if self._pid_file()[7:] == ["ready"]:
                return
            time.sleep(0.005)
        process.kill()
        process.wait()
        log = self.data_directory / "server.log"
        raise EmbeddedServerError(f"the server did not start; its own words are in {log}")

    def _pid_file(self) -> list[str]:
        """Lines of the file in which a server tells its number, place and state."""
        try:
            text = (self.data_directory / "postmaster.pid").read_text()
        except FileNotFoundError:
            return []
        return [line.strip() for line in text.splitlines()]

    def _stop_server(self) -> None:
        """Ask for a fast shutdown: sessions are ended, everything is written."""
        pid, _, _, _, socket_directory, *_ = self._pid_file()
        os.kill(int(pid), signal.SIGINT)
        if self._process:
            self._process.wait(timeout=_SECONDS)
        deadline = time.monotonic() + _SECONDS
        while self._pid_file():
            if time.monotonic() > deadline:
                raise EmbeddedServerError(f"the server on {self.data_directory} does not stop")
            time.sleep(0.01)
        if Path(socket_directory) != self.data_directory:
            with suppress(OSError):
                Path(socket_directory).rmdir()

    def _socket_directory(self) -> Path:
        path = self.data_directory
        if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT - 14 and not set(str(path)) & set(',"'):
            return path
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        return private_directory(Path(tempfile.gettempdir()) / f"changefeed-{digest}", self._service_user)

    def _make_database(self) -> None:
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (self.database,))
            if found.fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.database)))

    def _dsn(self, database: str) -> str:
        lines = self._pid_file()
        return make_conninfo(host=lines[4], port=lines[3], user=_SUPERUSER, dbname=database)

    def _run(self, command: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs to its end."""
        done = subprocess.run(  # noqa: S603 - our own binaries and arguments
            self._command(command, *arguments), stdout=subprocess.PIPE, timeout=2 * _SECONDS, **_PROCESS_OPTIONS
        )
        if done.returncode:
            last_words = done.stdout.decode(errors="replace").strip().splitlines()[-3:]
            raise EmbeddedServerError(f"{command} failed: {' '.join(last_words)}")

    def _command(self, program: str, *arguments: str) -> list[str]:
        command = [str(self.binaries / program), *arguments]
        return self._service_user.running(*command) if self._service_user else command
