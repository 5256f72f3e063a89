"""The running server, and a test's hands on it."""

import threading
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Self

from tests.dynamodb.server.account import Account
from tests.dynamodb.server.attributes import Attribute
from tests.dynamodb.server.behaviour import Behaviour
from tests.dynamodb.server.errors import ServiceError, access_denied
from tests.dynamodb.server.faults import Fault, Kind
from tests.dynamodb.server.http import Endpoint
from tests.dynamodb.server.stream import RETENTION, Stream
from tests.faults import ALWAYS
from tests.http_server import HttpServer


class WireServer:
    """Listens on loopback in a thread of its own, so that blocking clients and event loops can use it alike.

    A context manager. Leaving it raises AssertionError if an answer broke the SDK's model of the service.
    Every command is one step, which no request sees half done.
    """

    def __init__(self, behaviour: Behaviour | None = None, *, port: int = 0) -> None:
        self.behaviour = behaviour or Behaviour()
        self.account = Account(self.behaviour)
        self._turn = threading.RLock()
        self.endpoint = Endpoint(self.account, self._turn)
        self.calls = self.endpoint.calls
        self._http = HttpServer(self.endpoint.handle, name="dynamodb wire server", port=port)

    # --- Life

    def __enter__(self) -> Self:
        self._http.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.clear_faults()
        self._http.stop()
        assert not self.endpoint.own_faults, "\n".join(self.endpoint.own_faults)

    @property
    def url(self) -> str:
        """Endpoint of both services."""
        return f"http://127.0.0.1:{self._http.port}"

    # --- Streams

    def stream(self, table: str) -> Stream:
        """The latest stream of a table, to look at while nothing else happens."""
        stream = self.account.table(table).stream
        assert stream is not None
        return stream

    def open_shards(self, table: str) -> list[str]:
        """Ids of the shards that take changes."""
        with self._turn:
            return [shard.shard_id for shard in self.stream(table).open_shards()]

    def split(self, shard_id: str, *, listed: bool = True, parent_shown_open: bool = False) -> list[str]:
        """Close a shard in favour of two; `listed` and `parent_shown_open` say what DescribeStream shows of it."""
        with self._turn:
            stream, parent = self.account.shard(shard_id)
            children = stream.split(shard_id)
            for child in children:
                child.listed = listed
            parent.shown_open = parent_shown_open
            return [child.shard_id for child in children]

    def rotate(self, shard_id: str, *, listed: bool = True, parent_shown_open: bool = False) -> str:
        """Close a shard in favour of one."""
        with self._turn:
            stream, parent = self.account.shard(shard_id)
            child = stream.rotate(shard_id)
            child.listed = listed
            parent.shown_open = parent_shown_open
            return child.shard_id

    def list_everything(self) -> None:
        """Show every shard as it is, from now on."""
        with self._turn:
            for stream in self.account.streams.values():
                stream.stale = None
                for shard in stream.shards.values():
                    shard.listed, shard.shown_open = True, False

    def hold_listing(self, table: str, *, first_page_only: bool = False) -> None:
        """Go on to show the shards as they are now; `first_page_only` makes the pages of one listing disagree."""
        with self._turn:
            stream = self.stream(table)
            stream.stale = stream.listing(), first_page_only

    def empty_pages(self, shard_id: str, count: int) -> None:
        """Answer so many GetRecords of a shard with nothing, whatever it holds."""
        with self._turn:
            self.endpoint.streams.empty_pages[shard_id] = count

    def recreate_stream(self, table: str, view_type: str) -> str:
        """Switch the stream off and on; answers the new ARN."""
        with self._turn:
            found = self.account.table(table)
            self.account.disable_stream(found)
            return self.account.enable_stream(found, view_type).arn

    def forget_stream(self, arn: str) -> None:
        """Let a stream that was switched off disappear, as it does in the end."""
        with self._turn:
            assert not self.account.streams.pop(arn).enabled

    def put(self, table: str, *items: Mapping[str, Attribute]) -> None:
        """Create or replace items, faster than any client could."""
        with self._turn:
            for item in items:
                self.account.table(table).put(item)

    def expire_item(self, table: str, key: Mapping[str, Attribute]) -> None:
        """Delete an item as the service does when its time to live is over."""
        with self._turn:
            self.account.table(table).delete(key, expired=True)

    # --- Time

    def pass_time(self, span: timedelta, *, iterators_age: bool = True) -> None:
        """Let time pass and forget what has become too old; `iterators_age=False`: readers renewed theirs meanwhile."""
        with self._turn:
            self.account.clock.advance(span, iterators_age=iterators_age)
            self._trim()

    def trim(self) -> None:
        """Let just so much time pass that every change so far is forgotten, and every shard that is closed.

        Readers renew their iterators meanwhile. A position that is newer than the last change is not a day old.
        """
        with self._turn:
            if times := self._times():
                forgotten = max(times) + RETENTION.total_seconds() + 0.001
                span = timedelta(seconds=max(0.0, forgotten - self.account.clock.now()))
                self.account.clock.advance(span, iterators_age=False)
            self._trim()

    def expire_iterators(self) -> None:
        """End the life of every iterator that was issued so far."""
        with self._turn:
            self.endpoint.streams.iterators_since = self.account.clock.iterator_time()

    # --- Faults

    def fail(self, operation: str, error: ServiceError, *, times: int = 1, shard_id: str = "") -> None:
        """Answer calls of an operation ("*": any) with an error, so many times or ALWAYS."""
        self._add(Fault(operation, error, times, shard_id))

    def deny(self, operation: str) -> None:
        """Take the permission for an operation away."""
        self.fail(operation, access_denied(operation, "*"), times=ALWAYS)

    def drop(self, operation: str, *, times: int = 1, in_the_middle: bool = False) -> None:
        """Close the connection instead of answering, or in the middle of it."""
        self._add(Fault(operation, Kind.CUT if in_the_middle else Kind.DROP, times))

    def stall(self, operation: str, *, times: int = ALWAYS, shard_id: str = "") -> None:
        """Give no answer until the faults are cleared."""
        self._add(Fault(operation, Kind.STALL, times, shard_id))

    def clear_faults(self) -> None:
        """Let nothing go wrong any more, and answer what was stalled."""
        with self._turn:
            for fault in self.endpoint.faults.clear():
                self._http.call_soon(fault.released.set)

    # --- Inside

    def _add(self, fault: Fault) -> None:
        with self._turn:
            self.endpoint.faults.add(fault)

    def _trim(self) -> None:
        for stream in self.account.streams.values():
            stream.trim()

    def _times(self) -> list[float]:
        shards = [shard for stream in self.account.streams.values() for shard in stream.shards.values()]
        times = [shard.records[-1].time for shard in shards if shard.records]
        return times + [shard.closed_at for shard in shards if shard.closed_at is not None]
