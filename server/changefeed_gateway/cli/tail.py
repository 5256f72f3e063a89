"""`changefeed tail`: changes as they are committed."""

import asyncio
import sys

from changefeed.v1.position_pb2 import StartPosition
from changefeed_client import NOW, Delivery, Tail
from changefeed_gateway.cli.arguments import (
    Collection,
    From,
    Heartbeat,
    Items,
    ItemsChoice,
    Logical,
    MaxEvents,
    Partition,
    Resume,
    RetryFor,
    Wire,
    scope_of,
    start_of,
)
from changefeed_gateway.cli.calling import GatewayOptions, calls_gateway, client_of
from changefeed_gateway.cli.exits import exits
from changefeed_gateway.cli.options import Json
from changefeed_gateway.cli.outages import LONGEST, Outages
from changefeed_gateway.cli.output import (
    as_dict,
    complain,
    out,
    print_change,
    print_json,
    print_token,
    time_text,
)
from changefeed_gateway.cli.place import Place, kept_place
from changefeed_gateway.cli.progress import SnapshotBar


@calls_gateway
def tail(
    collection: Collection,
    start: From = None,
    partition: Partition = None,
    logical: Logical = None,
    items: Items = ItemsChoice.INCLUDE,
    max_events: MaxEvents = 0,
    heartbeat: Heartbeat = None,
    resume: Resume = None,
    retry_for: RetryFor = None,
    json: Json = False,
    wire: Wire = False,
    *,
    gateway: GatewayOptions,
) -> None:
    """Follow changes live, from now unless told otherwise; Ctrl-C ends it and prints the token to go on with.

    It reconnects and resumes by itself. With --resume it goes on where it was stopped, also by force.
    """

    async def follow(printer: _Printer, position: StartPosition) -> None:
        if position.HasField("beginning") and not json:
            complain("from the beginning of the feed: rows that were there before it do not arrive")
        async with client_of(gateway, patience=retry_for) as client:
            stream = client.tail(
                collection,
                position,
                scope=scope_of(partition, logical),
                items=items.mode,
                heartbeat_interval=heartbeat,
                max_events=max_events,
                patience=LONGEST if retry_for is None else retry_for,
            )
            await printer.follow(stream)

    with exits(), kept_place(resume) as place:
        printer = _Printer(place, json=json or wire, wire=wire)
        try:
            asyncio.run(follow(printer, start_of(start, place, NOW)))
        finally:
            printer.finish()


class _Printer:
    def __init__(self, place: Place | None, *, json: bool, wire: bool) -> None:
        self._place, self._json, self._wire = place, json, wire
        self._live = False
        self._token = self._shown = ""
        self._outages = Outages()
        self._bar = SnapshotBar()

    async def follow(self, stream: Tail) -> None:
        self._outages.follow()
        async with stream:
            async for delivery in stream:
                self._outages.goes_on(stream)
                self._print(delivery)
                # Shown before saved: a kill in between repeats a change, it never hides one.
                out.file.flush()
                self._token = delivery.continuation_token
                if self._place:
                    self._place.save(self._token)

    def _print(self, delivery: Delivery) -> None:
        for event in delivery.events:
            print_change(event, json=self._json, wire=self._wire)
        if delivery.snapshot is not None and not sys.stdout.isatty():
            self._bar.show(delivery.snapshot)
        if delivery.snapshot is None or delivery.snapshot.finished:
            self._bar.close()
        if delivery.snapshot is not None and delivery.snapshot.finished and not self._json:
            complain(f"the snapshot is whole, {delivery.snapshot.items:,} items; changes follow")
        for warning in () if self._json else delivery.warnings:
            complain(f"note: {warning.code}: {warning.message}")
        if self._json:
            # A heartbeat's is seldom of use, and long: the end says the last one.
            said = self._wire or not self._token or bool(delivery.events or delivery.children)
            self._shown = delivery.continuation_token if said else self._shown
            print_json("position", _position(delivery, with_token=said))
            return
        if delivery.live and not self._live:
            complain("live: everything older has been shown")
        self._live = delivery.live
        for child in delivery.children:
            complain(f"the partition is retired; go on with {child.partition_id}:")
            print_token(child.continuation_token)

    def finish(self) -> None:
        """Say where to go on."""
        self._bar.close()
        if not self._token or self._token == self._shown:
            return
        if self._json:
            print_json("position", {"continuation_token": self._token, "live": self._live})
        else:
            print_token(self._token)


def _position(delivery: Delivery, *, with_token: bool) -> dict[str, object]:
    position: dict[str, object] = {"continuation_token": delivery.continuation_token} if with_token else {}
    position["live"] = delivery.live
    if delivery.watermark:
        position["watermark"] = time_text(delivery.watermark)
    if delivery.token_expire_time:
        position["token_expire_time"] = time_text(delivery.token_expire_time)
    if delivery.snapshot is not None:
        position["snapshot"] = as_dict(delivery.snapshot)
    if delivery.warnings:
        position["warnings"] = [as_dict(warning) for warning in delivery.warnings]
    if delivery.children:
        position["child_partitions"] = [as_dict(child) for child in delivery.children]
    return position
