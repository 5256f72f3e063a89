"""The items of a snapshot, made field by field, are what single changes of the same rows are, to the byte."""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed_gateway.api.wire.records import encode_changes
from changefeed_gateway.core.errors import HistoryGap, TransientFailure
from changefeed_gateway.core.model import (
    Address,
    Change,
    ChangeType,
    EntireCollection,
    Feed,
    ItemState,
    Key,
    KeyComponent,
    KeyType,
    Origin,
    PageRead,
    PartitionId,
    Snapshot,
)
from changefeed_gateway.providers.postgres.connections import Connections, DatabaseId
from changefeed_gateway.providers.postgres.feeds import FeedDefinition, ImageMode
from changefeed_gateway.providers.postgres.log.items import ItemReader
from changefeed_gateway.providers.postgres.statements import Statements

pytestmark = pytest.mark.req("CF-12", "P3")

INCARNATION: Final = "an incarnation"
FEED: Final = Feed(
    address=Address(connection="main", database="größe", collection="public.orders"),
    provider_id="postgres",
    incarnation=INCARNATION,
    capabilities=(),
    item_state=ItemState.INCLUDED,
    single_order=True,
)
ROOM: Final = 30
"""The largest item that a page of these tests takes."""

Row = tuple[str, str, int, str, bool, int | None, str | None]
"""Key, partition key, bucket, version, wanted, bytes and image of an item."""


class Table:
    """Answers as PostgreSQL does: texts as bytes, the first row only with the snapshot, or with what is wrong."""

    def __init__(self, rows: Sequence[Row], problem: str | None = None) -> None:
        self._rows, self._problem = rows, problem
        self.numbers: str | None = "42"
        self.asked: list[int] = []
        self.most = 1_000_000
        self.error: BaseException = TransientFailure("the statement took too long", retry_after=timedelta(seconds=1))

    async def fetch(self, statement: str, arguments: Mapping[str, Any], *, as_sent: bool) -> list[Any]:
        assert as_sent
        self.asked.append(arguments["size"])
        if arguments["size"] > self.most:
            raise self.error
        head = ("5:5:", None, None, self.numbers, None, None, None, self._problem)
        rows = [
            (*row[:6], None if row[6] is None or (row[5] or 0) > arguments["max_item_bytes"] else row[6], None)
            for row in self._rows
        ]
        return [tuple(value.encode() if isinstance(value, str) else value for value in row) for row in (head, *rows)]


def reader(table: Table, columns: int, mode: ImageMode) -> ItemReader:
    definition = FeedDefinition(
        feed_id=1,
        name="public.orders",
        image_mode=mode,
        image_function=None,
        key_columns=("a", "b", "c")[:columns],
        key_types=(KeyType.NUMBER, KeyType.STRING, KeyType.STRING)[:columns],
        doorbell="notify",
        retention=timedelta(days=7),
        stopped=None,
        incarnation=INCARNATION,
        database=DatabaseId(1, 1),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        standby=False,
        snapshots=True,
    )
    return ItemReader(cast("Connections", table), Statements.of_feed(1, None), definition)


def single(row: Row, values: Sequence[str], mode: ImageMode, partition_id: str, *, items: bool) -> Change:
    """The item of a row as one change."""
    key, partition_key, _, version, _, size, image = row
    fits = size is not None and size <= ROOM
    state = ItemState.INCLUDED if fits else ItemState.UNAVAILABLE if size is None else ItemState.TOO_LARGE
    known = image if fits and items else ""
    text = f"{key}\0{version}\0{known}" if mode is ImageMode.CURRENT else f"{key}\0{version}"
    feed = hashlib.sha256(INCARNATION.encode()).hexdigest()[:8]
    types = (KeyType.NUMBER, KeyType.STRING, KeyType.STRING)
    return Change(
        event_id=f"{feed}-i{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}",
        change_type=ChangeType.SNAPSHOT,
        key=Key(partition_key, tuple(map(KeyComponent, "abc", values, types)), ""),
        item_state=state if items else ItemState.OMITTED,
        item=image if fits and items else None,
        commit_time=None,
        partition_id=PartitionId(partition_id),
        sequence="",
        origin=Origin.APPLICATION,
    )


@st.composite
def rows(draw: st.DrawFn, columns: int) -> tuple[Row, list[str]]:
    """A row as PostgreSQL makes it, and the values of its key."""
    texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9) | st.sampled_from(["[", '["x"]'])
    values = draw(st.lists(texts, min_size=columns, max_size=columns))
    alone = columns == 1 and not values[0].startswith("[")
    key = values[0] if alone else json.dumps(values, ensure_ascii=False)
    image = draw(st.none() | st.text(max_size=2 * ROOM))
    size = None if image is None else len(image.encode())
    version = str(draw(st.integers(3, 2**32 - 1)))
    return (
        key,
        draw(st.text(max_size=9)),
        draw(st.integers(0, 4095)),
        version,
        draw(st.booleans()),
        size,
        image,
    ), values


@given(st.data())
async def test_items_are_the_same_bytes_as_single_changes_of_their_rows(data: st.DataObject) -> None:
    columns = data.draw(st.integers(1, 3))
    mode = data.draw(st.sampled_from([ImageMode.CAPTURED, ImageMode.CURRENT]))
    items = data.draw(st.booleans())
    drawn = data.draw(st.lists(rows(columns), max_size=6))
    reading = reader(Table([row for row, _ in drawn]), columns, mode)
    read = PageRead(
        scope=EntireCollection(),
        start=Snapshot(),
        max_changes=10,
        max_bytes=10_000,
        max_item_bytes=ROOM,
        items=items,
    )
    found = await reading.read(None, 10, read, with_bucket=True)
    wanted = [(row, values) for row, values in drawn if row[4]]
    assert found.snapshot == "5:5:"
    assert found.numbers == 42
    assert found.last == (drawn[-1][0][0] if drawn else None)
    assert list(found.buckets) == [row[2] for row, _ in wanted]
    ids = [PartitionId(str(row[2] % 2)) for row, _ in wanted]
    made = reading.changes(found, ids, read)
    ordinary = [single(row, values, mode, ids[i], items=items) for i, (row, values) in enumerate(wanted)]
    assert made == ordinary
    assert encode_changes(FEED, made, items=items) == encode_changes(FEED, ordinary, items=items)


async def test_an_event_id_stays_what_it_was() -> None:
    reading = reader(Table([("7", "7", 1, "742", True, 2, "{}")]), 1, ImageMode.CAPTURED)
    read = PageRead(scope=EntireCollection(), start=Snapshot(), max_changes=9, max_bytes=9, max_item_bytes=9)
    (made,) = reading.changes(await reading.read(None, 9, read, with_bucket=False), [PartitionId("p")], read)
    assert made.event_id == "1fbf7c21-i93414c64377814210f031a87"


@pytest.mark.parametrize("by_its_caller", [False, True])
async def test_a_few_items_are_asked_for_first_and_fewer_where_they_take_too_long(by_its_caller: bool) -> None:
    table = Table([("7", "7", 1, "742", True, 2, "{}")])
    if by_its_caller:
        table.error = asyncio.CancelledError()
    reading = reader(table, 1, ImageMode.CAPTURED)
    read = PageRead(scope=EntireCollection(), start=Snapshot(), max_changes=1_000, max_bytes=9, max_item_bytes=9)
    for _ in range(5):
        await reading.read(None, 1_000, replace(read, items=False), with_bucket=False)
    assert table.asked == [100, 200, 400, 800, 1_000]
    # From here on each of them is so large that the server gives up over more.
    table.most, table.asked = 10, []
    for _ in range(4):
        with suppress(type(table.error)):
            await reading.read(None, 1_000, replace(read, items=False), with_bucket=False)
    assert table.asked == [1_000, 250, 62, 15]
    await reading.read(None, 1_000, replace(read, items=False), with_bucket=False)
    assert table.asked[-1] == 8, "the fewest"


async def test_functions_of_an_earlier_version_say_no_number() -> None:
    table = Table([("7", "7", 1, "742", True, 2, "{}")])
    table.numbers = None
    read = PageRead(scope=EntireCollection(), start=Snapshot(), max_changes=9, max_bytes=9, max_item_bytes=9)
    assert (await reader(table, 1, ImageMode.CAPTURED).read(None, 9, read, with_bucket=False)).numbers is None


async def test_a_table_that_is_not_captured_any_more_has_no_items() -> None:
    reading = reader(Table([], problem="größer"), 1, ImageMode.CAPTURED)
    read = PageRead(scope=EntireCollection(), start=Snapshot(), max_changes=9, max_bytes=9, max_item_bytes=9)
    with pytest.raises(HistoryGap, match="größer"):
        await reading.read(None, 9, read, with_bucket=False)
