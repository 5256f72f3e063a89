"""A client that reads one snapshot after the other until it is told to finish."""

import threading
import time

from bench.processes import Answer, own_cost
from bench.workers.control import ready, when_told_to_finish
from bench.workers.drain import Stub, address, channel, start_of
from changefeed.v1 import subscribe_pb2


def again(target: str, collection: str) -> Answer:
    """Snapshots of a collection; a stream ends where its snapshot does."""
    stub = Stub(channel(target))
    over = threading.Event()
    events = whole = 0
    request = subscribe_pb2.SubscribeRequest(address=address(collection), start_position=start_of("", "snapshot"))
    ready()
    when_told_to_finish(over.set)
    cpu, began = own_cost()["cpu"], time.perf_counter()
    while not over.is_set():
        stream = stub.Subscribe(request)
        for message in stream:
            events += len(message.batch.events)
            whole += message.HasField("snapshot_finished")
            if over.is_set() or message.HasField("snapshot_finished"):
                break
        stream.cancel()
    seconds = time.perf_counter() - began
    return {"events": events, "whole": whole, "seconds": seconds, "client_cpu": own_cost()["cpu"] - cpu}
