"""What an examination of a database says."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at, a line of `changefeed doctor`."""

    subject: str
    healthy: bool
    detail: str
    remedy: str = ""
    """What to do; empty when it is healthy."""
