"""NEW_ITEM_STATE_MODE_REQUIRE: nobody gets a change without its item unasked, and nobody is stuck on one."""

from collections.abc import Callable
from dataclasses import dataclass

from changefeed_gateway.core.columns import Columns
from changefeed_gateway.core.errors import NewItemStateUnavailable
from changefeed_gateway.core.model import Cursor, ItemState, NewItemStateMode
from changefeed_gateway.core.page import EncodedPage

_MAX_TOKEN_CHARS = 2_000
"""A longer token does not fit into an error's details, which stay below 4 KiB."""
_MISSING = (ItemState.UNAVAILABLE, ItemState.TOO_LARGE)


@dataclass(frozen=True, slots=True)
class ItemRequirement:
    """What a reader demands of items."""

    mode: NewItemStateMode
    token: Callable[[Cursor], str]

    def admit(self, page: EncodedPage) -> EncodedPage:
        """Pass a page on up to its first change that lacks a required item.

        Raises NewItemStateUnavailable when that is the first change of all; its metadata carry `event_id` and, where
        it is small enough, a `continuation_token` that steps over the change.
        """
        if self.mode is not NewItemStateMode.REQUIRE:
            return page
        for index, state in enumerate(Columns.of(page.content.changes).item_states):
            if state in _MISSING:
                if index:
                    return page.cut(0, index)
                raise self._refusal(page.content.changes[0].event_id, state, page.content.cursors[0])
        return page

    def _refusal(self, event_id: str, state: ItemState, cursor: Cursor) -> NewItemStateUnavailable:
        token = self.token(cursor)
        fits = len(token) <= _MAX_TOKEN_CHARS
        metadata = {"event_id": event_id, "item_state": state.name}
        return NewItemStateUnavailable(
            f"change {event_id} has no item ({state.name}); "
            + ("step over it with metadata continuation_token or " if fits else "")
            + "read it with INCLUDE_IF_AVAILABLE",
            metadata=metadata | ({"continuation_token": token} if fits else {}),
        )
