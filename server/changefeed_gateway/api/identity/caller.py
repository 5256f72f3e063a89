"""What a call shows of its caller, and who that turns out to be."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from changefeed_gateway.core.policy import Principal

MAX_NAME_CHARS = 255
"""Longest name of a principal, group or claim; longer ones are not taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """What a call brings: bearer tokens of its metadata, and what gRPC knows of its connection's certificate."""

    bearers: Sequence[str] = field(default=(), repr=False)
    certificate: Mapping[str, Sequence[bytes]] = field(default_factory=dict, repr=False)
    """gRPC's auth context; empty on a connection without TLS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A caller who is known, for as long as it is."""

    principal: Principal
    expires_at: float | None = None
    """Seconds since 1970 by the time of day; None when the credentials have no end."""
    holds: Callable[[], bool] | None = None
    """Whether the credentials would still be taken, their end apart; None where they cannot be taken back."""

    @property
    def is_for_ever(self) -> bool:
        """Whether there is nothing to look at again."""
        return self.expires_at is None and self.holds is None

    def problem(self) -> str:
        """Why it holds no more; empty while it does."""
        if self.expires_at is not None and self.expires_at <= time.time():
            return "the caller's credentials have expired"
        return "" if self.holds is None or self.holds() else "the caller's credentials were withdrawn"

    def seconds_left(self, most: float) -> float:
        """Until they end, or `most`: the time of day may step, and is looked at again."""
        return most if self.expires_at is None else min(most, max(0.0, self.expires_at - time.time()))


class Authenticator(Protocol):
    """One way to know callers."""

    async def identify(self, presented: Presented) -> Identity | None:
        """Who it is; None when nothing of this kind is presented. Raises AuthenticationFailed: it is, and not good."""
        ...


def is_name(text: object) -> bool:
    """Whether a text can name a principal, a group, or a claim's value."""
    return isinstance(text, str) and 0 < len(text) <= MAX_NAME_CHARS and text.isprintable()
