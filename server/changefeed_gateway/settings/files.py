"""Files that the gateway lives by: read whole but not without bound, and found again after a crash."""

import errno
import os
from pathlib import Path
from typing import Final

_MOST_BYTES: Final = 1_000_000
_NOT_OFFERED: Final = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP})


def read_bytes(file: Path) -> bytes:
    """What a file of settings or secrets holds. Raises OSError, also for one that is longer than any of these."""
    with open(file, "rb") as opened:
        content = opened.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return content


def make_durable(directory: Path) -> None:
    """Have the names in a directory survive a crash of the machine. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot, and keep names in another way.
        if error.errno not in _NOT_OFFERED:
            raise
    finally:
        os.close(descriptor)
