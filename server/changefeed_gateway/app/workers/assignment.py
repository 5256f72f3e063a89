"""What a worker is told to do."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from changefeed_gateway.core.token import TokenKey
from changefeed_gateway.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The settings as they held when the parent began: one that starts anew later serves as its siblings do."""

    number: int
    """Of the worker, from 1."""
    settings: Settings
    """With the port that all of them listen on."""
    keys: Sequence[TokenKey]
    """Of the tokens of all of them."""

    def encoded(self) -> bytes:
        """For the line, which nobody else can read: with its secrets."""
        return pickle.dumps(self)

    @classmethod
    def decoded(cls, content: bytes) -> Self:
        """Undo `encoded`; only of what came from the parent."""
        found = pickle.loads(content)  # noqa: S301 - our parent's, on sockets that nobody else holds
        assert isinstance(found, cls)  # noqa: S101 - both run the same code
        return found
