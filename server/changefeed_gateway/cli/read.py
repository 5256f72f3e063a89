"""`changefeed read`: what is there, page by page."""

import asyncio
import sys
from datetime import timedelta
from typing import Annotated

import typer
from rich.text import Text

from changefeed.v1.position_pb2 import StartPosition
from changefeed.v1.read_changes_pb2 import NewItemStateMode, ReadChangesResponse
from changefeed.v1.resource_pb2 import FeedScope, ResourceAddress
from changefeed_client import BEGINNING, ChangeFeedClient, after
from changefeed_gateway.cli.arguments import (
    MOST,
    Collection,
    From,
    Items,
    ItemsChoice,
    Logical,
    MaxEvents,
    MaxWait,
    Partition,
    Resume,
    Wire,
    scope_of,
    start_of,
)
from changefeed_gateway.cli.calling import GatewayOptions, calls_gateway, client_of
from changefeed_gateway.cli.exits import exits
from changefeed_gateway.cli.options import Json
from changefeed_gateway.cli.output import as_dict, out, print_change, print_json, print_token
from changefeed_gateway.cli.place import Place, kept_place
from changefeed_gateway.cli.progress import ChangeCount, SnapshotBar


@calls_gateway
def read(
    collection: Collection,
    start: From = None,
    partition: Partition = None,
    logical: Logical = None,
    items: Items = ItemsChoice.INCLUDE,
    page_size: Annotated[
        int, typer.Option(min=-MOST, max=MOST, help="Most changes in a page; 0 is the gateway's default.")
    ] = 0,
    max_events: MaxEvents = 0,
    max_wait: MaxWait = timedelta(0),
    resume: Resume = None,
    json: Json = False,
    wire: Wire = False,
    *,
    gateway: GatewayOptions,
) -> None:
    """Read the changes that are there, from the beginning unless told otherwise, and print the token to go on with."""
    with exits(), kept_place(resume) as place:
        reading = _Reading(
            address=collection,
            scope=scope_of(partition, logical),
            mode=items.mode,
            page_size=page_size,
            max_events=max_events,
            max_wait=max_wait,
            place=place,
            json=json or wire,
            wire=wire,
        )
        asyncio.run(reading.run(gateway, start_of(start, place, BEGINNING)))


class _Reading:
    def __init__(
        self,
        *,
        address: ResourceAddress,
        scope: FeedScope | None,
        mode: NewItemStateMode,
        page_size: int,
        max_events: int,
        max_wait: timedelta,
        place: Place | None,
        json: bool,
        wire: bool,
    ) -> None:
        self._address, self._scope, self._mode = address, scope, mode
        self._page_size, self._max_events, self._max_wait = page_size, max_events, max_wait
        self._place, self._json, self._wire = place, json, wire
        self._meter = ChangeCount()
        self._bar = SnapshotBar()

    async def run(self, gateway: GatewayOptions, start: StartPosition) -> None:
        try:
            async with client_of(gateway) as client:
                page = await self._page(client, start)
                while self._goes_on(page):
                    page = await self._page(client, after(page.continuation_token))
        finally:
            # Whatever ends it: they hide a terminal's cursor.
            self._meter.close()
            self._bar.close()
        self._finish(page)

    async def _page(self, client: ChangeFeedClient, start: StartPosition) -> ReadChangesResponse:
        page = await client.read_page(
            self._address,
            start,
            scope=self._scope,
            items=self._mode,
            max_page_size=self._next_size(),
            max_wait=self._max_wait,
        )
        for event in page.events:
            print_change(event, json=self._json, wire=self._wire)
        out.file.flush()
        if self._place:
            self._place.save(page.continuation_token)
        self._show(page)
        return page

    def _show(self, page: ReadChangesResponse) -> None:
        self._meter.add(len(page.events))
        if page.HasField("snapshot") and not page.snapshot.finished and not sys.stdout.isatty():
            self._meter.close()
            self._bar.show(page.snapshot)
        else:
            self._bar.close()

    def _next_size(self) -> int:
        if not self._max_events:
            return self._page_size
        left = self._max_events - self._meter.total
        return min(self._page_size, left) if self._page_size > 0 else left

    def _goes_on(self, page: ReadChangesResponse) -> bool:
        full = self._max_events and self._meter.total >= self._max_events
        return page.more_available and not page.partition_retired and not full

    def _finish(self, page: ReadChangesResponse) -> None:
        rest = ReadChangesResponse()
        rest.CopyFrom(page)
        rest.ClearField("events")
        if self._json:
            print_json("page", as_dict(rest))
            return
        for warning in rest.warnings:
            out.print(Text(f"note: {warning.code}: {warning.message}", "yellow"))
        for child in rest.child_partitions:
            out.print(Text(f"the partition is retired; go on with {child.partition_id}:", "yellow"))
            print_token(child.continuation_token)
        print_token(rest.continuation_token)
