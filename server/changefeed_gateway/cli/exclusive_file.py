"""Files that are always whole, and of one process at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from changefeed_gateway.settings.files import make_durable


def save_whole(file: Path, text: str) -> None:
    """Replace a file. After a crash, also of the machine, it holds the old text or the new one, never a part.

    One process at a time: see `exclusive`. Raises OSError.
    """
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
        make_durable(file.parent)


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends.

    Raises BlockingIOError when another process holds it, OSError where nothing can be written.
    """
    descriptor = _locked(lock)
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _locked(lock: Path) -> int:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed it since it was opened: then the next one locks another file.
            if os.fstat(descriptor).st_nlink:
                _sign(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _sign(descriptor: int) -> None:
    """Say who holds it; that also shows that the disk takes more."""
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    os.fsync(descriptor)
