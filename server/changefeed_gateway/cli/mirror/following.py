"""Brings a collection into a copy, from a snapshot and then for ever."""

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Final

from changefeed.v1.change_event_pb2 import (
    CHANGE_TYPE_DELETE,
    CHANGE_TYPE_TRUNCATE,
    ITEM_STATE_NOT_APPLICABLE,
    KEY_TYPE_BOOLEAN,
    KEY_TYPE_NULL,
    KEY_TYPE_NUMBER,
    ChangeEvent,
    KeyComponent,
)
from changefeed.v1.read_changes_pb2 import NewItemStateMode
from changefeed.v1.resource_pb2 import ResourceAddress
from changefeed_client import SNAPSHOT, ChangeFeedClient, ChangeFeedRpcError, Delivery, Tail, after
from changefeed_gateway.cli.mirror.copy import Copy, CopyPlace, Step
from changefeed_gateway.cli.outages import Outages
from changefeed_gateway.cli.output import complain
from changefeed_gateway.cli.progress import SnapshotBar

_BATCH: Final = 5_000


Say = Callable[[str, int | None, str], None]
"""Tells a state of the copy, its items where they are known, and a sentence."""


class Following:
    """One run of the command."""

    def __init__(
        self, copy: Copy, address: ResourceAddress, *, anew_on_expiry: bool, patience: timedelta, say: Say
    ) -> None:
        """`patience` is how long an outage may last; `say` tells whoever runs the command what state the copy is in."""
        self._say = say
        self._copy, self._address, self._anew = copy, address, anew_on_expiry
        self._patience, self._outages = patience, Outages()
        self._bar = SnapshotBar()
        self.live = asyncio.Event()
        self.delivered = asyncio.Event()
        """Set with every delivery that is in the copy; clear it to await the next."""

    async def run(self, client: ChangeFeedClient, *, until_live: bool) -> None:
        """Follow; ends when it is live, if told so. Raises ChangeFeedRpcError and whatever the copy raises."""
        place = await self._copy.place()
        if place is None or not place[0]:
            self._say("new", None, "a new copy: it begins with a snapshot")
        while True:
            try:
                return await self._follow(client, place, until_live=until_live)
            except ChangeFeedRpcError as error:
                if error.reason == "TOKEN_RESOURCE_RECREATED":
                    complain("to copy anew, remove the copy's file, or drop the table of its place")
                if error.category != "CHECKPOINT_EXPIRED":
                    raise
                if not self._anew:
                    complain("to read a new snapshot into the copy, say --on-expiry snapshot")
                    raise
                # As it is in the copy by now; its rows stay until the snapshot has been read.
                reached = await self._copy.place()
                anew = "", reached[1] if reached else 0
                if place == anew:  # Nothing came of the last one.
                    raise
                self._say("expired", None, "the place of the copy has expired: a new snapshot begins")
                place = anew
            finally:
                self._bar.close()

    async def _follow(self, client: ChangeFeedClient, place: CopyPlace | None, *, until_live: bool) -> None:
        token, number = place or ("", 0)
        if not token:
            number += 1
        tail = client.tail(
            self._address,
            after(token) if token else SNAPSHOT,
            items=NewItemStateMode.NEW_ITEM_STATE_MODE_REQUIRE,
            max_batch_size=_BATCH,
            patience=self._patience,
        )
        self._outages.follow()
        async with tail:
            await self._take_all(tail, number, until_live=until_live)

    async def _take_all(self, tail: Tail, number: int, *, until_live: bool) -> None:
        async for delivery in tail:
            self._outages.goes_on(tail)
            place = delivery.continuation_token, number
            whole = delivery.snapshot is not None and delivery.snapshot.finished
            await self._copy.take([step_of(event) for event in delivery.events], place, whole=whole)
            self._show(delivery, whole=whole)
            self.delivered.set()
            if delivery.live:
                self.live.set()
                if until_live:
                    return

    def _show(self, delivery: Delivery, *, whole: bool) -> None:
        for warning in delivery.warnings:
            complain(f"note: {warning.code}: {warning.message}")
        if delivery.snapshot is not None:
            self._bar.show(delivery.snapshot)
        if whole and delivery.snapshot is not None:
            self._bar.close()
            self._say("whole", delivery.snapshot.items, "the snapshot is whole; changes follow")
        if delivery.live and not self.live.is_set():
            self._say("live", None, "live: the copy is up to date")


def step_of(event: ChangeEvent) -> Step:
    """What an event does to a copy."""
    if event.change_type == CHANGE_TYPE_TRUNCATE:
        return "clear", "", ""
    key = json.dumps([_value(component, event.provider) for component in event.key.components], ensure_ascii=False)
    if event.change_type == CHANGE_TYPE_DELETE or event.item_state == ITEM_STATE_NOT_APPLICABLE:
        return "remove", key, ""
    return "put", key, event.new_item_json


def _value(component: KeyComponent, provider: str) -> str | float | bool | None:
    """What stands for a component in the key of a copy: its text, where all values of a column have one type."""
    if component.type == KEY_TYPE_NULL:
        return None
    if provider == "cosmos" and component.type in (KEY_TYPE_NUMBER, KEY_TYPE_BOOLEAN):
        value: float | bool = json.loads(component.value)
        return value
    return component.value


def differing(source: Mapping[str, str], copy: Mapping[str, str]) -> set[str]:
    """The keys under which two are not the same."""
    return {key for key in source.keys() | copy.keys() if source.get(key) != copy.get(key)}
