"""Writers on an open schedule, and a subscriber that tells how old each change is when its handler sees it."""

import json
import time
from datetime import timedelta

import grpc
import psycopg
from google.protobuf import duration_pb2

from bench.figures import percentile
from bench.processes import Answer, own_cost
from bench.workers.control import ready, when_told_to_finish
from bench.workers.drain import Stub, address, channel
from changefeed.v1 import position_pb2, subscribe_pb2

_GRACE = timedelta(seconds=2)
"""How long the last changes may take to arrive."""


def write(
    dsn: str, table: str, rows: int, first_row: int, interval: float, delay: float, warm_up: float, seconds: float
) -> Answer:
    """One writer: an UPDATE every `interval` seconds, whatever the one before took.

    The row carries the clock just before its UPDATE. The first one is due `delay` seconds after the given begin.
    """
    acknowledged: list[float] = []
    late = 0.0
    writes = 0
    update = f"UPDATE {table} SET stamp = %s, item_count = item_count + 1 WHERE id = %s"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(update, (0, first_row), prepare=True)
        begin_at = ready()
        measure_at = begin_at + warm_up
        due = begin_at + delay
        while due < measure_at + seconds:
            if (pause := due - time.time()) > 0:
                time.sleep(pause)
            stamp = time.time_ns()
            connection.execute(update, (stamp, first_row + writes % rows), prepare=True)
            writes += 1
            if due >= measure_at:
                acknowledged.append((time.time_ns() - stamp) / 1e6)
                late = max(late, stamp / 1e9 - due)
            due += interval
    return {"writes": writes, "acknowledged_ms": acknowledged, "late_ms": late * 1e3, "cpu": own_cost()["cpu"]}


def listen(target: str, collection: str, warm_up: float, credentials: dict[str, str] | None = None) -> Answer:
    """Subscribe from now on; stop some time after being told to."""
    stub = Stub(channel(target, credentials))
    stream = stub.Subscribe(
        subscribe_pb2.SubscribeRequest(
            address=address(collection),
            start_position=position_pb2.StartPosition(now=position_pb2.Now()),
            heartbeat_interval=duration_pb2.Duration(seconds=1),
        )
    )
    assert next(stream).WhichOneof("content") == "opened"
    measure_at_ns = (ready() + warm_up) * 1e9
    when_told_to_finish(lambda: _end_soon(stream))
    ages: list[float] = []
    events = messages = 0
    cpu = own_cost()["cpu"]
    try:
        for message in stream:
            if message.WhichOneof("content") != "batch":
                continue
            messages += 1
            for event in message.batch.events:
                events += 1
                stamp = json.loads(event.new_item_json)["stamp"]
                if stamp >= measure_at_ns:
                    ages.append((time.time_ns() - stamp) / 1e6)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.CANCELLED:
            raise
    return {"events": events, "messages": messages, "cpu": own_cost()["cpu"] - cpu, **summary(ages)}


def _end_soon(stream: grpc.Call) -> None:
    time.sleep(_GRACE.total_seconds())
    stream.cancel()


def summary(ages: list[float]) -> Answer:
    """Percentiles in milliseconds."""
    ages.sort()
    return {
        "measured": len(ages),
        **{name: percentile(ages, share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))},
    }
