"""Cuts of a page: what is true of its end is said of its end alone."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from changefeed_gateway.core.model import (
    Address,
    Change,
    ChangeType,
    Cursor,
    Feed,
    ItemState,
    Key,
    Page,
    PartitionId,
)
from changefeed_gateway.core.page import EncodedPage

START = datetime(2026, 11, 29, tzinfo=UTC)
END = START + timedelta(days=1)
FEED = Feed(
    address=Address(connection="main", database="d", collection="c"),
    provider_id="memory",
    incarnation="1",
    capabilities=(),
    item_state=ItemState.INCLUDED,
    single_order=True,
)


@pytest.fixture
def page() -> EncodedPage:
    key = Key("k", ())
    changes = [
        Change(str(n), ChangeType.UPDATE, key, ItemState.INCLUDED, "x", None, PartitionId("p"), str(n))
        for n in range(4)
    ]
    content = Page(
        changes=changes,
        cursors=[Cursor(bytes([n])) for n in range(1, 5)],
        start=Cursor(b"\0"),
        cursor=Cursor(b"\4"),
        more_available=False,
        expire_time=END,
        start_expire_time=START,
    )
    return EncodedPage(content, lambda items: [change.sequence.encode() for change in changes])


@pytest.mark.req("BX-3")
@pytest.mark.parametrize(
    ("low", "high", "expires"), [(0, 4, END), (2, 4, END), (0, 3, START), (1, 2, START), (0, 0, START)]
)
def test_a_position_within_a_page_lives_no_longer_than_is_known(
    page: EncodedPage, low: int, high: int, expires: datetime
) -> None:
    assert page.cut(low, high).content.expire_time == expires
    assert page.cut(0, 3).cut(0, 2).content.expire_time == START


async def test_many_changes_are_encoded_in_several_turns_of_the_loop(page: EncodedPage) -> None:
    change, sizes, turns = page.content.changes[0], list[int](), 0

    def encode(feed: Feed, changes: Sequence[Change], *, items: bool) -> list[bytes]:
        sizes.append(len(changes))
        return [each.sequence.encode() for each in changes]

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    content = replace(page.content, changes=[change._replace(sequence=str(number)) for number in range(4_500)])
    large = EncodedPage.of(FEED, content, encode)
    counting = asyncio.create_task(count_turns())
    await large.encode(items=True)
    counting.cancel()
    assert sizes == [1_000, 1_000, 1_000, 1_000, 500]
    assert turns >= 4
    await large.encode(items=True)
    assert large.records(items=True) == [str(number).encode() for number in range(4_500)]
    assert sum(sizes) == 4_500, "once"
