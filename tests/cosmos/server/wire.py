"""The running server, and a test's hands on it.

with WireServer(Behaviour(ranges=2)) as server:
    server.create_container("things", "/pk")            # in the database DATABASE
    client = CosmosClient(server.url, server.key)       # unmodified SDK
    server.upsert("things", {"id": "1", "pk": "a"})     # or through the SDK
    server.split("things", server.ranges("things")[0])
    server.fail("ReadChangeFeed", throttled(50), times=3)
"""

import base64
import threading
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from tests.cosmos.server.account import Account
from tests.cosmos.server.behaviour import Behaviour
from tests.cosmos.server.change import Item
from tests.cosmos.server.container import Container, Transaction
from tests.cosmos.server.errors import ServiceError, forbidden
from tests.cosmos.server.faults import Fault, Kind
from tests.cosmos.server.http import Endpoint
from tests.cosmos.server.partition_key import Component, Definition
from tests.faults import ALWAYS
from tests.http_server import HttpServer

DATABASE = "shop"

KEY = base64.b64encode(b"fake-cosmos-key-do-not-leak-41c8f07d").decode()
READONLY_KEY = base64.b64encode(b"fake-cosmos-readonly-key-do-not-leak").decode()


class WireServer:
    """Listens on loopback in a thread of its own, so that blocking clients and event loops can use it alike.

    A context manager. Leaving it raises AssertionError if something went wrong in the server itself.
    Every command is one step, which no request sees half done. Containers are named by `name`, in DATABASE.
    """

    def __init__(self, behaviour: Behaviour | None = None, *, port: int = 0) -> None:
        self.behaviour = behaviour or Behaviour()
        self.account = Account(self.behaviour)
        self.account.create_database(DATABASE)
        self.key = KEY
        self.readonly_key = READONLY_KEY
        self._turn = threading.RLock()
        self.endpoint = Endpoint(self.account, self._turn, key=self.key, readonly_key=self.readonly_key)
        self.calls = self.endpoint.calls
        self._addresses = [f"127.0.0.{number}" for number, _ in enumerate(self.behaviour.regions, start=1)]
        self._http = HttpServer(self.endpoint.handle, name="cosmos wire server", port=port, addresses=self._addresses)

    # --- Life

    def __enter__(self) -> Self:
        self._http.start()
        for region, address in zip(self.behaviour.regions, self._addresses, strict=True):
            self.endpoint.locations[region] = f"http://{address}:{self._http.port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.clear_faults()
        self._http.stop()
        assert not self.endpoint.own_faults, "\n".join(self.endpoint.own_faults)

    @property
    def url(self) -> str:
        """Endpoint of the account."""
        return f"http://127.0.0.1:{self._http.port}"

    # --- Containers

    def create_container(self, name: str, *paths: str, ranges: int | None = None) -> Container:
        """Make a container; with several paths its partition key is hierarchical."""
        with self._turn:
            definition = Definition(paths, "Hash" if len(paths) == 1 else "MultiHash")
            return self.account.create_container(DATABASE, name, definition, ranges=ranges)

    def container(self, name: str) -> Container:
        """A container, to look at while nothing else happens."""
        return self.account.container(DATABASE, name)

    def delete_container(self, name: str) -> None:
        """Remove a container."""
        with self._turn:
            self.account.delete_container(DATABASE, name)

    def recreate_container(self, name: str) -> Container:
        """Remove a container and make another of the same name, with a rid of its own; it is empty."""
        with self._turn:
            old = self.account.delete_container(DATABASE, name)
            return self.account.create_container(DATABASE, name, old.definition, ranges=len(old.ranges))

    def ranges(self, name: str) -> list[str]:
        """Ids of the partition key ranges that are online, in the order of their intervals."""
        with self._turn:
            return [found.range_id for found in sorted(self.container(name).ranges.values(), key=lambda r: r.low)]

    def range_of(self, name: str, *key: Component) -> str:
        """Id of the range that takes a partition key."""
        with self._turn:
            container = self.container(name)
            return container.range_of(container.definition.epk(key)).range_id

    def split(self, name: str, range_id: str, at: str | None = None) -> list[str]:
        """Put two ranges in the place of one, with the edge half way or at an effective partition key."""
        with self._turn:
            return [child.range_id for child in self.container(name).split(range_id, at)]

    def merge(self, name: str, range_ids: Sequence[str]) -> str:
        """Put one range in the place of neighbours."""
        with self._turn:
            return self.container(name).merge(range_ids).range_id

    def trim(self, name: str) -> None:
        """Let the retention pass: AllVersionsAndDeletes forgets every change so far, and a continuation before one."""
        with self._turn:
            self.container(name).trim()

    def lag(self, name: str, transactions: int) -> None:
        """Let Now be so many transactions behind the head, as on a replica that lags."""
        with self._turn:
            self.container(name).now_lag = transactions

    def stale(self, name: str, transactions: int, *, answers: int) -> None:
        """Let a replica give so many answers of the feed that has not heard of the last transactions."""
        with self._turn:
            self.container(name).stale = answers, transactions

    def fail_over(self, name: str, lost: int) -> None:
        """Let another region take over that never heard of the last transactions, all of which made new items."""
        with self._turn:
            self.container(name).fail_over(lost)

    def empty_pages(self, name: str, range_id: str, count: int) -> None:
        """Answer so many reads of a range's feed with 200 and nothing, whatever it holds."""
        with self._turn:
            self.endpoint.feed.empty_pages[self.container(name).ranges[range_id].rid] = count

    # --- Items

    def create(self, name: str, *items: Item) -> None:
        """Make items, faster than any client could."""
        with self._turn:
            for item in items:
                self.container(name).create(item)

    def upsert(self, name: str, *items: Item) -> None:
        """Make or replace items."""
        with self._turn:
            for item in items:
                self.container(name).upsert(item)

    def delete(self, name: str, item_id: str, *key: Component) -> None:
        """Remove an item."""
        with self._turn:
            self.container(name).delete(key, item_id)

    def expire_item(self, name: str, item_id: str, *key: Component) -> None:
        """Delete an item as the service does when its time to live is over."""
        with self._turn:
            self.container(name).delete(key, item_id, expired=True)

    def transaction(self, name: str, *items: Item) -> None:
        """Make or replace items of one logical partition in one transaction, of any size."""
        with self._turn:
            container = self.container(name)
            transaction: Transaction = container.transaction(container.definition.of(items[0]))
            for item in items:
                transaction.upsert(item)
            transaction.commit()

    # --- Time

    def pass_time(self, span: timedelta) -> None:
        """Let time pass."""
        with self._turn:
            self.account.clock.advance(span)

    # --- Faults

    def fail(
        self, operation: str, error: ServiceError, *, times: int = 1, range_id: str = "", region: str = ""
    ) -> None:
        """Answer calls of an operation ("*": any) with an error, so many times or ALWAYS."""
        self._add(Fault(operation, error, times, range_id, region))

    def deny(self, operation: str) -> None:
        """Take the permission for an operation away."""
        self.fail(operation, forbidden(), times=ALWAYS)

    def drop(self, operation: str, *, times: int = 1, kind: Kind = Kind.DROP, region: str = "") -> None:
        """Close the connection instead of answering, in the middle of it, or when all is done."""
        self._add(Fault(operation, kind, times, region=region))

    def stall(self, operation: str, *, times: int = ALWAYS, range_id: str = "") -> None:
        """Give no answer until the faults are cleared."""
        self._add(Fault(operation, Kind.STALL, times, range_id))

    def clear_faults(self) -> None:
        """Let nothing go wrong any more, and answer what was stalled."""
        with self._turn:
            for fault in self.endpoint.faults.clear():
                self._http.call_soon(fault.released.set)

    # --- Inside

    def _add(self, fault: Fault) -> None:
        with self._turn:
            self.endpoint.faults.add(fault)
