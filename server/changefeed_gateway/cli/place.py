"""A reader's place, kept in a file that is always whole."""

import os
from pathlib import Path


class Place:
    """A file that holds one continuation token."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def load(self) -> str | None:
        """The token, if there is one."""
        try:
            return self.file.read_text(encoding="ascii").strip() or None
        except FileNotFoundError:
            return None

    def save(self, token: str) -> None:
        """Replace the token. After a crash the file holds the old one or the new one, never a part."""
        draft = self.file.with_name(f"{self.file.name}.{os.getpid()}.new")
        with open(draft, "w", encoding="ascii") as out:
            out.write(token + "\n")
            out.flush()
            os.fsync(out.fileno())
        draft.replace(self.file)
