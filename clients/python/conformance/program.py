"""The Python client's program for the conformance run: see docs/clients.md in the repository."""

import asyncio
import json
import logging
import sys
import time
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc

from changefeed.v1.change_event_pb2 import ChangeEvent
from changefeed_client import (
    BEGINNING,
    NOW,
    SNAPSHOT,
    ChangeFeedClient,
    ChangeFeedRpcError,
    Checkpoint,
    Delivery,
    FileCheckpoint,
    MemoryCheckpoint,
    StreamInterrupted,
    after,
    collection,
    connect,
)

Json = dict[str, Any]


def say(what: str, content: object) -> None:
    """One line for the driver."""
    print(json.dumps({what: content}), flush=True)


class Reconnects(logging.Handler):
    """Tells of every interruption that the client logs."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say one."""
        say("reconnect", {"message": record.getMessage()})


def written(text: str) -> str | None:
    """An item parsed and written again: it must still have every digit."""
    if not text:
        return None
    parsed = json.loads(text, parse_float=Decimal)
    return _json(parsed)


def _json(value: object) -> str:
    match value:
        case Decimal():
            return str(value)
        case dict():
            return "{" + ",".join(f"{json.dumps(key)}:{_json(part)}" for key, part in value.items()) + "}"
        case list():
            return "[" + ",".join(map(_json, value)) + "]"
        case _:
            return json.dumps(value)


def told(event: ChangeEvent) -> Json:
    """An event as the driver compares it."""
    return {
        "id": event.event_id,
        "type": event.change_type,
        "state": event.item_state,
        "partition_key": event.key.partition_key,
        "key": [component.value for component in event.key.components],
        "item": written(event.new_item_json),
    }


class Program:
    """One order."""

    def __init__(self, order: Json) -> None:
        self._order = order
        self._address = collection(order["collection"])
        starts = {"beginning": BEGINNING, "now": NOW, "snapshot": SNAPSHOT}
        self._start = starts.get(order["start"]) or after(order["after"])
        path = order.get("checkpoint")
        self._checkpoint: Checkpoint | None = FileCheckpoint(path) if path else None

    async def run(self) -> None:
        """Do what is ordered."""
        roots = self._order.get("roots")
        tls = grpc.ssl_channel_credentials(await asyncio.to_thread(Path(roots).read_bytes)) if roots else None
        token = self._order.get("bearer")
        async with connect(self._order["target"], tls=tls, bearer=(lambda: token) if token else None) as client:
            await getattr(self, f"_{self._order['call']}")(client)

    async def _tail(self, client: ChangeFeedClient) -> None:
        most = self._order.get("max_events", 0)
        options = {"max_events": most, "checkpoint": self._checkpoint, **self._options()}
        async with client.tail(self._address, self._start, **options) as tail:
            async for delivery in tail:
                await self._handle("", delivery)

    async def _partitions(self, client: ChangeFeedClient) -> None:
        checkpoint = self._checkpoint or MemoryCheckpoint()
        await client.read_partitions(
            self._address,
            self._start,
            self._handle,
            checkpoint=checkpoint,
            only=self._order.get("only", ()),
            **self._options(),
        )

    async def _drain(self, client: ChangeFeedClient) -> None:
        count, began = 0, time.perf_counter()
        async with client.tail(self._address, self._start, max_events=self._order["max_events"]) as tail:
            async for delivery in tail:
                count += len(delivery.events)
        say("drained", {"events": count, "seconds": time.perf_counter() - began})

    async def _page(self, client: ChangeFeedClient) -> None:
        page = await client.read_page(self._address, self._start)
        delivery = Delivery(
            events=page.events,
            continuation_token=page.continuation_token,
            live=False,
            snapshot=page.snapshot if page.HasField("snapshot") else None,
            warnings=page.warnings,
        )
        self._tell("", delivery)

    def _options(self) -> Json:
        return {
            "heartbeat_interval": self._span("heartbeat_ms"),
            "patience": self._span("patience_ms"),
            "deduplicate": self._order.get("deduplicate", 0),
            "max_batch_size": self._order.get("max_batch_size", 0),
        }

    def _span(self, name: str) -> timedelta | None:
        return timedelta(milliseconds=self._order[name]) if name in self._order else None

    async def _handle(self, partition: str, delivery: Delivery) -> None:
        self._tell(partition, delivery)
        if delivery.events:
            await asyncio.sleep(self._order.get("handle_ms", 0) / 1_000)

    def _tell(self, partition: str, delivery: Delivery) -> None:
        progress = delivery.snapshot
        said = {
            "token": delivery.continuation_token,
            "live": delivery.live,
            "partition": partition,
            "snapshot": None if progress is None else {"items": progress.items, "finished": progress.finished},
            "warnings": [warning.code for warning in delivery.warnings],
            "events": [told(event) for event in delivery.events],
        }
        say("delivery", said)


async def run(order: Json) -> None:
    """Run one order and say how it ended."""
    try:
        await Program(order).run()
        say("end", True)
    except ChangeFeedRpcError as error:
        names = ("category", "reason", "retryable", "provider", "request_id")
        say("error", {name: getattr(error, name) for name in names})
    except StreamInterrupted as error:
        say("error", {"category": "INTERRUPTED", "reason": str(error), "retryable": True})


async def main() -> None:
    """Run the orders in the arguments, one after the other."""
    logging.getLogger("changefeed_client").addHandler(Reconnects())
    for argument in sys.argv[1:]:
        await run(json.loads(argument))


asyncio.run(main())
