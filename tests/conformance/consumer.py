"""A consumer as a user would write it: portable, because it asks what a collection can do and looks at nothing else."""

from dataclasses import dataclass, field

from changefeed.v1 import change_event_pb2
from tests.conformance.client import BEGINNING, NOW, Client, Event, Page, Start, after


@dataclass
class Store:
    """What the consumer keeps in its own database, written together after every page."""

    token: str = ""
    items: dict[str, str | None] = field(default_factory=dict)
    """Key to the newest item; None where the feed carries no items."""
    seen: set[str] = field(default_factory=set)
    """Event ids, for deduplication."""
    applied: list[str] = field(default_factory=list)


async def first_position(client: Client) -> str:
    """Where a consumer that has never run starts: the beginning where there is one, otherwise now."""
    supported = await client.supported()
    if "CHANGE_FEED" not in supported:
        raise RuntimeError("the collection captures no changes")
    start = BEGINNING if "CHANGE_FEED_BEGINNING" in supported else NOW
    return (await client.resolve(start)).continuation_token


async def consume(client: Client, store: Store, *, pages: int | None = None, size: int = 0) -> None:
    """Apply pages to a mirror, saving the token with each; ends when there is nothing more, or after some pages."""
    if not store.token:
        store.token = await first_position(client)
    while pages is None or pages > 0:
        page = await client.read(_start(store), size=size)
        _apply(page, store)
        if pages is not None:
            pages -= 1
        elif not page.more_available:
            return


def _start(store: Store) -> Start:
    return after(store.token)


def _apply(page: Page, store: Store) -> None:
    for event in page.events:
        if event.event_id in store.seen:
            continue
        store.seen.add(event.event_id)
        store.applied.append(event.event_id)
        _apply_event(event, store)
    store.token = page.continuation_token


def _apply_event(event: Event, store: Store) -> None:
    key = "\0".join([event.key.partition_key, *(component.value for component in event.key.components)])
    match event.change_type:
        case change_event_pb2.CHANGE_TYPE_DELETE:
            store.items.pop(key, None)
        case change_event_pb2.CHANGE_TYPE_TRUNCATE:
            store.items.clear()
        case _ if event.item_state == change_event_pb2.ITEM_STATE_NOT_APPLICABLE:
            # Deleted before the page was read: the delete follows.
            store.items.pop(key, None)
        case _:
            store.items[key] = event.new_item_json or None
