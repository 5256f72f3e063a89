"""The SQL files under `migrations/`.

A set has two folders. `tables/` is its history: steps in the order of their numbers, each once. `functions/` is what it
is today: each file is applied again whenever its text has changed.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.abc import Traversable
from importlib.resources import files
from pathlib import Path
from typing import Final

from changefeed_gateway.providers.postgres.errors import OperationError

_STEP: Final = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
_TOPIC: Final = re.compile(r"[a-z0-9_]+\.sql")


class MigrationSet(Enum):
    """What can be installed, in the order in which it must be."""

    LOG = "log"
    """The change log itself: all that an operator's own database needs."""
    DOCUMENTS = "documents"
    """The documents schema and its feed."""


class MigrationError(OperationError):
    """A migration cannot be applied; the message names its file and says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One SQL file."""

    set: MigrationSet
    name: str
    """Of a step without its number; of a file of functions its topic."""
    version: int | None
    """The number of a step; None for functions."""
    sql: str

    @property
    def file(self) -> str:
        """Its path under `migrations/`."""
        if self.version is None:
            return f"{self.set.value}/functions/{self.name}.sql"
        return f"{self.set.value}/tables/{self.version:04}_{self.name}.sql"

    @property
    def checksum(self) -> str:
        """SHA-256 of its text, hexadecimal."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load_migrations(sets: Sequence[MigrationSet] = tuple(MigrationSet)) -> list[Migration]:
    """Read the files of some sets, in the order in which they are applied.

    Raises MigrationError for a file that is not named as its folder demands, or whose version is taken.
    """
    root = _root()
    return [migration for chosen in MigrationSet if chosen in sets for migration in _load_set(root, chosen)]


def _root() -> Traversable:
    """The files lie inside the installed package; in a checkout, at the top."""
    installed = files("changefeed_gateway").joinpath("migrations")
    return installed if installed.is_dir() else Path(__file__).parents[5] / "migrations"


def _load_set(root: Traversable, chosen: MigrationSet) -> list[Migration]:
    folder = root.joinpath(chosen.value)
    steps: dict[int, Migration] = {}
    for name, text in _files(folder.joinpath("tables")):
        parts = _STEP.fullmatch(name)
        if parts is None or int(parts["version"]) in steps:
            raise MigrationError(f"{chosen.value}/tables/{name}: name it NNNN_name.sql, with a number of its own")
        version = int(parts["version"])
        steps[version] = Migration(set=chosen, version=version, name=parts["name"], sql=text)
    functions: list[Migration] = []
    for name, text in _files(folder.joinpath("functions")):
        if not _TOPIC.fullmatch(name):
            raise MigrationError(f"{chosen.value}/functions/{name}: name it by its topic, topic.sql")
        functions.append(Migration(set=chosen, version=None, name=name.removesuffix(".sql"), sql=text))
    return [*(steps[version] for version in sorted(steps)), *functions]


def _files(folder: Traversable) -> list[tuple[str, str]]:
    found = [file for file in folder.iterdir() if file.name.endswith(".sql")]
    return sorted((file.name, file.read_text(encoding="utf-8")) for file in found)
