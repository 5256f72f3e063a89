"""From the documents of one answer to a page: how many fit, and the position after each. Pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from changefeed_gateway.core.model import Change, PageRead
from changefeed_gateway.providers.cosmos.cursor import Mode, Position
from changefeed_gateway.providers.cosmos.mapping import ChangeMaker, Document, bytes_of, placed


class Gathered(NamedTuple):
    """The first changes of an answer, as far as they fit into a page."""

    changes: Sequence[Change]
    positions: Sequence[Position]
    """After each change."""
    whole: bool
    """Everything fitted."""
    last_lsn: int = 0
    """Of the last document, whether it fitted or not."""


NOTHING: Final = Gathered((), (), whole=True)


def gather(
    documents: Sequence[Document], position: Position, maker: ChangeMaker, mode: Mode, read: PageRead
) -> Gathered:
    """Make changes of what an answer to a position's origin brought behind the position; the first always fits."""
    changes: list[Change] = []
    positions: list[Position] = []
    size, whole, lsn = 0, True, 0
    ages = mode is Mode.ALL_VERSIONS_AND_DELETES
    for number, found in enumerate(placed(documents, mode), 1):
        lsn = found.lsn
        if found.lsn < position.lsn:
            continue
        # P3: of a run that was begun all are made, because the ids of those that follow count them.
        change = maker.make(found, read)
        if position.passes(found.lsn, found.inside):
            continue
        size += bytes_of(change.item)
        if len(changes) == read.max_changes or (changes and size > read.max_bytes):
            whole = False
            break
        changes.append(change)
        created = int(change.commit_time.timestamp()) if ages and change.commit_time else 0
        positions.append(position.behind(found.lsn, found.inside, created, number))
    return Gathered(changes, positions, whole, lsn)
