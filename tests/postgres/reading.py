"""Reads a feed through a provider, the way consumers do."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

from changefeed_gateway.core.model import (
    Address,
    After,
    Beginning,
    Change,
    Cursor,
    EntireCollection,
    Feed,
    Page,
    PageRead,
    Scope,
    Start,
)
from changefeed_gateway.providers.postgres.provider import PostgresOptions, PostgresProvider

WHOLE = EntireCollection()
DEFAULTS = PostgresOptions()


def address(collection: str) -> Address:
    return Address(connection="test", database="", collection=collection)


def page_read(
    start: Start,
    *,
    scope: Scope = WHOLE,
    size: int = 1000,
    wait: float = 0,
    items: bool = True,
    max_bytes: int = 3_500_000,
    max_item_bytes: int = 3_000_000,
) -> PageRead:
    return PageRead(
        scope=scope,
        start=start,
        max_changes=size,
        max_bytes=max_bytes,
        max_item_bytes=max_item_bytes,
        items=items,
        max_wait=timedelta(seconds=wait),
    )


@asynccontextmanager
async def open_provider(dsn: str, options: PostgresOptions = DEFAULTS) -> AsyncIterator[PostgresProvider]:
    provider = PostgresProvider(dsn, options)
    try:
        yield provider
    finally:
        await provider.aclose()


async def read_all(
    provider: PostgresProvider, feed: Feed, read: PageRead | None = None, *, at_most: int = 1_000_000
) -> tuple[list[Change], Cursor]:
    """Every change up to the newest, page by page, and the cursor after them."""
    read = read or page_read(Beginning())
    changes: list[Change] = []
    while True:
        page = await provider.read_page(feed, read)
        check(page, read)
        changes += page.changes
        if not page.more_available or len(changes) >= at_most:
            return changes, page.cursor
        read = replace(read, start=After(page.cursor))


def check(page: Page, read: PageRead) -> None:
    """What every page promises."""
    assert len(page.changes) == len(page.cursors) <= read.max_changes
    cursors = [page.start, *page.cursors, page.cursor]
    assert cursors == sorted(cursors)
    assert len(set(cursors[:-1])) == len(cursors) - 1, "each change has a position of its own"


def ids(changes: Sequence[Change]) -> list[str]:
    return [change.event_id for change in changes]
