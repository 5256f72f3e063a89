"""From the records of one shard to a page: how many fit, and the position after each. Pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from changefeed_gateway.core.model import Change, PageRead
from changefeed_gateway.providers.dynamodb.cursor import Position, after
from changefeed_gateway.providers.dynamodb.mapping import ChangeMaker, Record, created_of, sequence_of


class Gathered(NamedTuple):
    """The first of some records, as far as they fit into a page."""

    changes: Sequence[Change]
    positions: Sequence[Position]
    """After each change."""
    whole: bool
    """Every record fitted."""


NOTHING: Final = Gathered((), (), whole=True)


def gather(records: Sequence[Record], maker: ChangeMaker, read: PageRead) -> Gathered:
    """Make changes of records, within the page's count and bytes; the first always fits."""
    changes: list[Change] = []
    positions: list[Position] = []
    size = 0
    for record in records[: read.max_changes]:
        change = maker.make(record, read)
        size += len((change.item or "").encode())
        if changes and size > read.max_bytes:
            break
        changes.append(change)
        positions.append(after(sequence_of(record), created_of(record)))
    return Gathered(changes, positions, whole=len(changes) == len(records))
