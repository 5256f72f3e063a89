"""A tail for plain scripts: the same engine, driven by the calling thread and by no other."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from changefeed.v1.position_pb2 import StartPosition
from changefeed.v1.resource_pb2 import ResourceAddress
from changefeed_client.client import ChangeFeedClient, connect
from changefeed_client.tail import Delivery, Tail


class SyncTail:
    """Iterates over deliveries as `Tail` does, with its promises and errors; only within `with`.

    One thread at a time, and none that runs an event loop already. Between two deliveries nothing is read: a script
    that takes long over one is resumed by the gateway's usual rules, and loses nothing.
    """

    def __init__(self, client: Callable[[], ChangeFeedClient], open_tail: Callable[[ChangeFeedClient], Tail]) -> None:
        self._make, self._open = client, open_tail
        self._runner = asyncio.Runner()
        self._client: ChangeFeedClient | None = None
        self._tail: Tail | None = None

    def __enter__(self) -> Self:
        async def begin() -> None:
            self._client = self._make()
            self._tail = self._open(self._client)

        self._runner.__enter__()
        try:
            self._runner.run(begin())
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._client is not None:
                self._runner.run(self._client.aclose())
        finally:
            self._runner.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delivery:
        if self._tail is None:
            raise RuntimeError("a tail is read within `with`")
        try:
            return self._runner.run(self._tail.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None


def tail(
    gateway: str | Callable[[], ChangeFeedClient], address: ResourceAddress, start: StartPosition, **options: Any
) -> SyncTail:
    """Follow a collection live, from the gateway at `host:port`, or of a client that is made here.

    `options` are those of `ChangeFeedClient.tail`.
    """
    make = gateway if callable(gateway) else lambda: connect(gateway)
    return SyncTail(make, lambda client: client.tail(address, start, **options))
