"""A copy of a collection, wherever it is kept: rows by key, and the place that belongs to them."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

Step = tuple[Literal["put", "remove", "clear"], str, str]
"""What happens to a copy, the key that it happens to, and the item as JSON text."""

CopyPlace = tuple[str, int]
"""The token to go on with, and which snapshot the copy is of, counted from 1.

Without a token: rows of that snapshot and earlier ones are there, and nothing says where to go on.
"""


class Copy(Protocol):
    """Every method is one transaction, so that a crash leaves rows and place together."""

    # Two that write to one copy would each put back what the other has brought, and either's place would hide it.

    async def place(self) -> CopyPlace | None:
        """Where it goes on; None for one that is new."""
        ...

    async def take(self, steps: Sequence[Step], place: CopyPlace, *, whole: bool) -> None:
        """Take steps in order, each row noted with the place's snapshot; `whole`: drop the rows of earlier ones.

        Refuses, and changes nothing, where somebody else has moved the place since it was asked for or moved here.
        """
        ...

    async def items(self) -> Mapping[str, str]:
        """All rows."""
        ...
