"""Cuts of a page: what is true of its end is said of its end alone."""

from datetime import UTC, datetime, timedelta

import pytest

from changefeed_gateway.core.model import Change, ChangeType, Cursor, ItemState, Key, Page, PartitionId
from changefeed_gateway.core.page import EncodedPage

START = datetime(2026, 11, 29, tzinfo=UTC)
END = START + timedelta(days=1)


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
