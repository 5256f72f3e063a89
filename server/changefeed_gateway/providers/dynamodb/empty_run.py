"""What empty pages in a row from one place prove. Pure."""

from typing import Final, NamedTuple

RECENT: Final = 60
"""Seconds: a reader that is less behind is taken to be at the tip after a few empty pages, another after many."""
_FEW: Final = 3
_MANY: Final = 20
_PROOF: Final = 10
"""Empty pages in a row that show that nothing lies ahead: one alone may stand before records."""


class EmptyRun(NamedTuple):
    """Empty pages since the last one that held a record. Times are the service's, in whole epoch seconds."""

    pages: int = 0
    since: int = 0
    """When the first of those came that count towards the next proof."""
    as_of: int = 0
    """Nothing beyond the place is older, as far as that was proven; 0 where it was not."""

    def another(self, at: int) -> "EmptyRun":
        """With one empty page more."""
        since, pages = self.since or at, self.pages + 1
        return EmptyRun(pages, at, since) if pages % _PROOF == 0 else EmptyRun(pages, since, self.as_of)

    def at_tip(self, *, behind: int) -> bool:
        """Whether nothing more seems to be there for a reader whose position is some seconds old."""
        return self.pages >= (_FEW if behind <= RECENT else _MANY)
