"""The ids of the last changes: redelivered ones follow a reconnect, so a window is enough."""

from collections import deque
from collections.abc import Sequence

from changefeed.v1.change_event_pb2 import ChangeEvent


class Seen:
    """A window over event ids; of none, it lets everything pass."""

    def __init__(self, size: int) -> None:
        self._order: deque[str] = deque()
        self._known: set[str] = set()
        self._size = size

    def fresh(self, events: Sequence[ChangeEvent]) -> Sequence[ChangeEvent]:
        """What was not delivered before, in the same order."""
        return [event for event in events if self._is_new(event.event_id)] if self._size > 0 else events

    def _is_new(self, event_id: str) -> bool:
        if event_id in self._known:
            return False
        if len(self._order) == self._size:
            self._known.discard(self._order.popleft())
        self._order.append(event_id)
        self._known.add(event_id)
        return True
