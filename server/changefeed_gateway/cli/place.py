"""A reader's place, kept in a file that is always whole."""

import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from changefeed_client.checkpoint import replace_file
from changefeed_gateway.cli.exclusive_file import exclusive
from changefeed_gateway.settings.files import read_bytes

_TOKEN: Final = re.compile(r"[A-Za-z0-9_=-]{40,}")
"""What a token looks like; the gateway finds out whether it is one."""


class PlaceError(Exception):
    """The place cannot be kept, or is not one: nothing that it would let a reader skip was skipped."""


class Place:
    """A file that holds one continuation token."""

    def __init__(self, file: Path) -> None:
        try:
            self.file = file.resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise _failure(file, error) from None
        self._saved: str | None = None

    def load(self) -> str | None:
        """The token; None if there is no file. Raises PlaceError: a file that says nothing is no missing one."""
        try:
            if not stat.S_ISREG(self.file.stat().st_mode):
                raise PlaceError(f"{self.file} is no file that can keep a place")
            text = read_bytes(self.file).decode("ascii").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failure(self.file, error) from None
        except UnicodeDecodeError:
            text = ""
        if not _TOKEN.fullmatch(text):
            remedy = "bring it back, or remove it to begin where --from says"
            raise PlaceError(f"{self.file} holds no place, it is empty or damaged: {remedy}")
        return text

    def save(self, token: str) -> None:
        """Replace the token; see `replace_file`. Raises PlaceError."""
        if token == self._saved:
            return
        try:
            replace_file(self.file, token + "\n")
        except OSError as error:
            raise _failure(self.file, error) from None
        self._saved = token


@contextmanager
def kept_place(file: Path | None) -> Iterator[Place | None]:
    """Keep a place in a file, alone; None for no file.

    What would fail with the first change fails here. Raises PlaceError.
    """
    if file is None:
        yield None
        return
    place = Place(file)
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(place.file.with_name(f"{place.file.name}.lock")))
        except BlockingIOError:
            raise PlaceError(f"another process keeps its place in {place.file}") from None
        except OSError as error:
            raise _failure(place.file, error) from None
        token = place.load()
        if token is not None:
            place.save(token)
        yield place


def _failure(file: Path, error: Exception) -> PlaceError:
    return PlaceError(f"no place can be kept in {file}: {getattr(error, 'strerror', None) or error}")
