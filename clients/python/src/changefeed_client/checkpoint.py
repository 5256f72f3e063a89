"""Where saved tokens are kept, for a consumer without a database of its own."""

import asyncio
import errno
import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

Positions = Mapping[str, str]
"""Saved tokens, by physical partition where one is read, otherwise under WHOLE."""

WHOLE: Final = "*"
"""Names the position of a reader of an entire collection or of a logical partition."""

_NOT_OFFERED: Final = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP})


class Checkpoint(Protocol):
    """Keeps positions where they outlive this process; for one reader at a time.

    A consumer with a database of its own needs none: it saves the token in the transaction of its work and starts at
    `after(token)`.
    """

    async def load(self) -> Positions:
        """What was saved; empty when nothing was."""
        ...

    async def save(self, changes: Positions) -> None:
        """Change some positions, all of them or none; an empty token removes one. Then no kill loses it."""
        ...


class MemoryCheckpoint:
    """Keeps positions as long as the process lives."""

    def __init__(self) -> None:
        self._positions: dict[str, str] = {}

    async def load(self) -> Positions:
        """What was saved; empty when nothing was."""
        return dict(self._positions)

    async def save(self, changes: Positions) -> None:
        """Change some positions; an empty token removes one."""
        self._positions = changed(self._positions, changes)


class FileCheckpoint:
    """Keeps positions in a file of JSON, which is replaced whole. Raises OSError where the file cannot be used."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()

    async def load(self) -> Positions:
        """What was saved; empty when there is no file.

        Raises ValueError for a damaged file: to begin anew in silence would be to miss changes, or to repeat all.
        """
        return await asyncio.to_thread(self._read)

    async def save(self, changes: Positions) -> None:
        """Change some positions; an empty token removes one. Raises ValueError for a damaged file."""
        await asyncio.to_thread(self._change, changes)

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            if isinstance(found, dict) and all(isinstance(token, str) for token in found.values()):
                return found
        except FileNotFoundError:
            return {}
        except ValueError:
            pass
        raise ValueError(f"{self._path} holds no positions: bring it back, or remove it to start over")

    def _change(self, changes: Positions) -> None:
        with self._lock:
            replace_file(self._path, json.dumps(changed(self._read(), changes)))


def changed(positions: Positions, changes: Positions) -> dict[str, str]:
    """Positions after a change of some; an empty token removes one."""
    return {name: token for name, token in {**positions, **changes}.items() if token}


def replace_file(file: Path, text: str) -> None:
    """Replace a file. After a crash, also of the machine, it holds the old text or the new one, never a part.

    One process at a time. Raises OSError.
    """
    # Always the same name, so that those who are killed leave one at most.
    draft = file.with_name(f"{file.name}.new")
    try:
        mode = file.stat().st_mode & 0o777
        is_new = False
    except FileNotFoundError:
        mode, is_new = 0o644, True
    # What a killed process left, or somebody else put there to have it overwritten.
    draft.unlink(missing_ok=True)
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(descriptor)
        draft.replace(file)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    if is_new:
        # A new text may come again as the old one, but a file that is gone would have its reader begin elsewhere.
        _make_durable(file.parent)


def _make_durable(directory: Path) -> None:
    """Have the names in a directory survive a crash of the machine, where directories can be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot, and keep names in another way.
        if error.errno not in _NOT_OFFERED:
            raise
    finally:
        os.close(descriptor)


class Place:
    """One position of a checkpoint: a reader's. Without a checkpoint it is nowhere kept."""

    def __init__(self, checkpoint: Checkpoint | None, name: str) -> None:
        self._checkpoint = checkpoint
        self._name = name
        self._is_loaded = checkpoint is None
        self._handled = ""

    async def load(self) -> str:
        """The saved token, at the first call; otherwise nothing."""
        if self._is_loaded or self._checkpoint is None:
            return ""
        found = await self._checkpoint.load()
        self._is_loaded = True
        return found.get(self._name, "")

    @property
    def has_unsaved(self) -> bool:
        """Whether a delivery is with the reader, who has not asked for the next one."""
        return self._checkpoint is not None and bool(self._handled)

    def deliver(self, token: str) -> None:
        """A delivery is on its way to the reader: `save` will mean it."""
        self._handled = token

    async def save(self) -> None:
        """Save the token of what was delivered last; what is cancelled is saved by the next call."""
        if self._checkpoint is not None and self._handled:
            await self._checkpoint.save({self._name: self._handled})
            self._handled = ""
