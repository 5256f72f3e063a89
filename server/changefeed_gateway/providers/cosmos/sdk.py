"""Calls to one account: the SDK's asynchronous client, kept from what it hides, with the gateway's own retries."""

import asyncio
import base64
import binascii
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.cosmos.partition_key import NonePartitionKeyValue
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
)

from changefeed_gateway.core.cancellation import cut_short
from changefeed_gateway.core.errors import (
    ChangeFeedError,
    NotFound,
    ProviderAuthenticationFailed,
    Throttled,
)
from changefeed_gateway.core.refusals import Refusal
from changefeed_gateway.core.retries import Attempts, passes_soon
from changefeed_gateway.providers.cosmos.consumption import Consumption
from changefeed_gateway.providers.cosmos.cursor import Interval, Mode, Position, number_of
from changefeed_gateway.providers.cosmos.errors import (
    READ_DATABASE,
    READ_FEED,
    RID_DIFFERS,
    Answered,
    OtherContainer,
    RangeGone,
    translate,
    without_text,
)
from changefeed_gateway.providers.cosmos.mapping import UNDEFINED, Document

_T = TypeVar("_T")

_SDK_MODES: Final = {
    Mode.ALL_VERSIONS_AND_DELETES: "AllVersionsAndDeletes",
    Mode.LATEST_VERSION: "LatestVersion",
}
_START_TYPES: Final = {Mode.ALL_VERSIONS_AND_DELETES: "Now", Mode.LATEST_VERSION: "Beginning"}
"""Of a continuation, whose etag counts. Never a time: the SDK cannot read its own (azure-sdk-for-python #43018)."""

_COUNTED: Final = re.compile(r"documentsCount=(\d{1,18})")
_SDK_RETRIES: Final = 1
"""The smallest number that the SDK takes for one; the calls that are read by answers end with the first 429 anyway."""
_OVERTAKEN: Final = 60
"""Seconds by which an answer may be older than one that came before it."""
_LEEWAY: Final = 1.0
"""Seconds after which a call is given up that the SDK should have given up by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Which account, as whom, and from which of its regions."""

    url: str
    key: str | None = field(default=None, repr=False)
    """The account's key, or a read-only one; None: an identity of Microsoft Entra ID."""
    preferred_regions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries(Attempts):
    """How long a failing service is asked."""

    budget: timedelta = timedelta(seconds=10)
    """No attempt begins later: who is told to come back after more than is left of it is told so."""
    connect_timeout: timedelta = timedelta(seconds=5)
    read_timeout: timedelta = timedelta(seconds=10)
    """For one answer."""


class Cost(NamedTuple):
    """What something took."""

    calls: int = 0
    charge: float = 0.0
    """Request units."""

    def plus(self, other: "Cost") -> "Cost":
        """Both together."""
        return Cost(self.calls + other.calls, self.charge + other.charge)


FREE: Final = Cost()


class FeedAnswer(NamedTuple):
    """One answer of a change feed."""

    documents: Sequence[Document]
    etag: str
    at_tip: bool
    """304: there was nothing more."""
    time: int
    """The service's clock, epoch seconds rounded down."""
    cost: Cost
    size: int = 0
    """Bytes, as they came."""
    reached: int = 0
    """The number to which the replica that answered has come; 0 where that is not told."""


@dataclass(slots=True)
class _Seen:
    """What the answers to one call of the SDK said before the SDK made something else of it."""

    rid: str = ""
    """Of the container that is meant; empty where any will do."""
    calls: int = 0
    charge: float = 0.0
    status: int = 0
    size: int = 0
    reached: int = 0


_seen: Final[ContextVar[_Seen | None]] = ContextVar("_seen", default=None)

# It logs every request, with what is asked and who asks; what fails is told by who asked.
logging.getLogger("azure").setLevel(logging.CRITICAL)


class Sdk:
    """One database of one account. Methods raise errors of the core, and those of `errors` beside them."""

    def __init__(self, endpoint: Endpoint, database: str, retries: Retries, *, max_calls: int) -> None:
        """At most `max_calls` are under way at once."""
        self.time = 0
        """The latest that the service's clock is known to have shown."""
        self.database = database
        self.consumption = Consumption(urlsplit(endpoint.url).hostname or "")
        self._endpoint = endpoint
        self._retries = retries
        self._gate = asyncio.Semaphore(max_calls)
        self._client: CosmosClient | None = None
        self._credential: Any = None
        self._connecting = asyncio.Lock()
        self._closed = False

    # --- Calls

    async def connect(self) -> None:
        """Read the account. Raises ProviderAuthenticationFailed, TransientFailure."""
        await self._call("ReadAccount", self._connected)

    async def read_container(self, name: str) -> Mapping[str, Any]:
        """The container as it is now. Raises NotFound."""
        try:
            return await self._call("ReadContainer", lambda: self._read_container(name))
        except NotFound:
            # Sub-statuses do not tell for sure what it is that is missing.
            await self._call(READ_DATABASE, self._read_database)
            raise

    async def list_ranges(self, name: str) -> tuple[Sequence[Mapping[str, Any]], Cost]:
        """The container's partition key ranges, with their ancestors."""
        return await self._call("ReadPartitionKeyRanges", lambda: self._list_ranges(name))

    async def count_items(self, name: str) -> tuple[int | None, Cost]:
        """About how many items a container has; None where the service does not say."""
        return await self._call("ReadContainer", lambda: self._count_items(name))

    async def interval_of(self, name: str, key: Sequence[Any], *, hierarchical: bool) -> Interval:
        """The effective partition keys of a partition key, or of a prefix of a hierarchical one."""
        return await self._call("ReadContainer", lambda: self._interval_of(name, key, hierarchical=hierarchical))

    async def read_feed(
        self, name: str, rid: str, mode: Mode, position: Position, limit: int, *, now: bool = False
    ) -> FeedAnswer:
        """One answer to a position's origin, or to `now` in its interval.

        Raises RangeGone when the interval does not lie within one range, Refused, and InvalidRequest
        (TOKEN_RESOURCE_RECREATED) when the container is not the one with `rid`.
        """
        try:
            return await self._call(READ_FEED, lambda: self._read_feed(name, rid, mode, position, limit, now=now))
        except RangeGone:
            # The SDK goes by the ranges that it knows until it is told to look again.
            client = await self._connected()
            await client.client_connection.refresh_routing_map_provider()
            raise

    async def aclose(self) -> None:
        """End what is under way, and start nothing more."""
        self._closed = True
        async with self._connecting:
            client, self._client = self._client, None
        if client is not None:
            await client.close()
        if self._credential is not None:
            await self._credential.close()
        self.consumption.close()

    # --- One call

    async def _read_container(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = await (await self._container(name)).read(timeout=self._timeout)
        return found

    async def _read_database(self) -> Mapping[str, Any]:
        client = await self._connected()
        found: Mapping[str, Any] = await client.get_database_client(self.database).read(timeout=self._timeout)
        return found

    async def _list_ranges(self, name: str) -> tuple[Sequence[Mapping[str, Any]], Cost]:
        container = await self._container(name)
        seen = _current()
        # What the SDK makes public, `read_feed_ranges`, tells neither ids nor ancestors.
        ranges = [found async for found in _pages(container, self._timeout)]
        return ranges, Cost(seen.calls, seen.charge)

    async def _count_items(self, name: str) -> tuple[int | None, Cost]:
        container = await self._container(name)
        seen = _current()
        described = await container.read(populate_quota_info=True, timeout=self._timeout)
        found = _COUNTED.search(described.get_response_headers().get("x-ms-resource-usage") or "")
        return int(found[1]) if found else None, Cost(seen.calls, seen.charge)

    async def _interval_of(self, name: str, key: Sequence[Any], *, hierarchical: bool) -> Interval:
        values = [NonePartitionKeyValue if value == UNDEFINED else value for value in key]
        container = await self._container(name)
        found = await container.feed_range_from_partition_key(values if hierarchical else values[0])
        bounds = found["Range"]
        return Interval(bounds["min"], _next(bounds["max"]) if bounds["isMaxInclusive"] else bounds["max"])

    async def _read_feed(
        self, name: str, rid: str, mode: Mode, position: Position, limit: int, *, now: bool
    ) -> FeedAnswer:
        container = await self._container(name)
        seen, told = _current(), _Told()
        seen.rid = rid
        pages = container.query_items_change_feed(
            **_where(rid, mode, position, now=now), max_item_count=limit, timeout=self._timeout, response_hook=told
        ).by_page()
        with suppress(StopAsyncIteration):
            # Trap: a page without documents ends the iteration, and what it ended at is told to the hook alone.
            await anext(pages)
        if told.intervals != [position.interval]:
            # Trap: the SDK has put the children into the place of a range that it knows to be gone.
            raise RangeGone
        at_tip = seen.status == 304
        cost = Cost(seen.calls, seen.charge)
        return FeedAnswer(told.documents, told.etag, at_tip, self.time, cost, seen.size, seen.reached)

    async def _container(self, name: str) -> ContainerProxy:
        client = await self._connected()
        return client.get_database_client(self.database).get_container_client(name)

    async def _call(self, operation: str, make: Callable[[], Awaitable[_T]]) -> _T:
        pause = self._retries.waiting()
        retrying = AsyncRetrying(
            retry=retry_if_exception(passes_soon),
            wait=lambda state: max(pause(state), _asked_for(state)),
            stop=stop_after_attempt(self._retries.attempts) | stop_before_delay(self._retries.budget.total_seconds()),
            reraise=True,
        )
        return await retrying(self._call_once, operation, make)

    async def _call_once(self, operation: str, make: Callable[[], Awaitable[_T]]) -> _T:
        if self._closed:
            raise cut_short()
        token = _seen.set(_Seen())
        try:
            async with self._gate, asyncio.timeout(self._timeout + _LEEWAY):
                return await make()
        except (ChangeFeedError, RangeGone):
            raise
        except Exception as error:
            failure, cause = translate(error, operation), without_text(error)
        finally:
            _seen.reset(token)
        # Outside the handler: whoever logs the failure with its cause must not find the service's text there.
        raise failure from cause

    @property
    def _timeout(self) -> float:
        """Seconds for one call of the SDK, its retries included."""
        return self._retries.read_timeout.total_seconds()

    # --- The client

    async def _connected(self) -> CosmosClient:
        async with self._connecting:
            if self._closed:
                raise cut_short()
            if self._client is None:
                client = self._make_client()
                try:
                    # Reads the account: which regions there are.
                    await client.__aenter__()
                except BaseException:
                    await client.close()
                    raise
                self._client = client
            return self._client

    def _make_client(self) -> CosmosClient:
        retries = self._retries
        return CosmosClient(
            self._endpoint.url,
            credential=self._find_credential(),
            preferred_locations=list(self._endpoint.preferred_regions),
            retry_total=_SDK_RETRIES,
            retry_throttle_total=_SDK_RETRIES,
            connection_timeout=retries.connect_timeout.total_seconds(),
            read_timeout=retries.read_timeout.total_seconds(),
            user_agent_suffix="changefeed-gateway",
            raw_response_hook=self._look_at,
        )

    def _find_credential(self) -> Any:
        if self._endpoint.key is not None:
            _check_key(self._endpoint.key)
            return self._endpoint.key
        if self._credential is None:
            # Only who uses it needs it: it brings the whole of Microsoft's identity platform.
            from azure.identity.aio import DefaultAzureCredential

            self._credential = DefaultAzureCredential()
        return self._credential

    def _look_at(self, response: Any) -> None:
        """Note what an answer says, and end the call where the SDK would hide it or go on for ever.

        That is 410, which it follows by itself, losing what it has not read of the first child, or for ever; 1024, upon
        which it goes on with the new container; and 429, which it repeats a hundred times.
        """
        answer, request = response.http_response, response.http_request
        headers, status = answer.headers, int(answer.status_code)
        charge = float(headers.get("x-ms-request-charge") or 0)
        self.consumption.add(charge)
        self._learn_time(headers.get("date"))
        seen = _seen.get()
        if seen is None:
            return
        seen.calls, seen.charge, seen.status = seen.calls + 1, seen.charge + charge, status
        seen.size = len(answer.body())
        seen.reached = _reached(headers.get("x-ms-session-token") or "")
        meant = request.headers.get("x-ms-cosmos-intended-collection-rid")
        if seen.rid and meant and meant != seen.rid and "/docs" in urlsplit(request.url).path:
            raise OtherContainer
        sub_status = int(headers.get("x-ms-substatus") or 0)
        if status in (410, 429) or (status, sub_status) == (400, RID_DIFFERS):
            retry_after = headers.get("x-ms-retry-after-ms")
            raise Answered(status, sub_status, timedelta(milliseconds=float(retry_after)) if retry_after else None)

    def _learn_time(self, date: str | None) -> None:
        try:
            time = int(parsedate_to_datetime(date or "").timestamp())
        except ValueError:
            return
        # Answers overtake each other by seconds. A clock that was far ahead was wrong, and must not age every position.
        self.time = time if time < self.time - _OVERTAKEN else max(self.time, time)


class _Told:
    """The hook of one call: the last answer's documents and etag, and what the SDK read to get them."""

    def __init__(self) -> None:
        self.documents: Sequence[Document] = ()
        self.etag = ""
        self._headers: Mapping[str, str] = {}

    def __call__(self, headers: Mapping[str, str], body: Mapping[str, Any] | None) -> None:
        # Trap: the headers are changed afterwards, and the etag becomes the SDK's own continuation.
        self.etag = headers.get("etag", "")
        self.documents = () if body is None else body["Documents"]
        self._headers = headers

    @property
    def intervals(self) -> list[Interval]:
        """The intervals that the SDK's own continuation names: which ones it reads in turn from now on."""
        token = json.loads(base64.b64decode(self._headers["etag"]))
        ranges = [part["range"] for part in token["continuation"]["continuation"]]
        return [Interval(found["min"], found["max"]) for found in ranges]


def _where(rid: str, mode: Mode, position: Position, *, now: bool) -> dict[str, Any]:
    """Where a call of the SDK begins to read."""
    bounds = {
        "min": position.interval.low,
        "max": position.interval.high,
        "isMinInclusive": True,
        "isMaxInclusive": False,
    }
    start = "Now" if now else position.start_time or (None if position.origin else "Beginning")
    if start is not None:
        return {"mode": _SDK_MODES[mode], "feed_range": {"Range": bounds}, "start_time": start}
    token = {
        "v": "v2",
        "containerRid": rid,
        "mode": _SDK_MODES[mode],
        "startFrom": {"Type": _START_TYPES[mode]},
        "continuation": {
            "v": "v2",
            "rid": rid,
            "continuation": [{"token": position.origin, "range": bounds}],
            "Range": bounds,
        },
    }
    return {"continuation": base64.b64encode(json.dumps(token).encode()).decode()}


def _pages(container: ContainerProxy, timeout: float) -> AsyncIterator[Mapping[str, Any]]:
    read = container.client_connection._ReadPartitionKeyRanges
    found: AsyncIterator[Mapping[str, Any]] = read(container.container_link, timeout=timeout).__aiter__()
    return found


def _reached(session_token: str) -> int:
    """The number in a session token of one range: `range:number`, or `range:version#number#region=number...`.

    Microsoft's estimator of a feed's lag compares it with the numbers of changes (azure-cosmos-dotnet-v3,
    ExtractLsnFromSessionToken).
    """
    parts = session_token.rpartition(":")[2].split("#")
    return number_of(parts[min(1, len(parts) - 1)])


def _next(epk: str) -> str:
    """The effective partition key behind one."""
    return f"{int(epk, 16) + 1:0{len(epk)}X}"


def _current() -> _Seen:
    seen = _seen.get()
    return _Seen() if seen is None else seen


def _check_key(key: str) -> None:
    try:
        base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        raise ProviderAuthenticationFailed(
            "the connection's key is no account key, which is base64: copy it from the account's Keys page"
        ) from Refusal("the key is not base64")


def _asked_for(state: RetryCallState) -> float:
    """Seconds after which the service wants to be asked again."""
    error = state.outcome.exception() if state.outcome is not None else None
    if not isinstance(error, Throttled) or error.retry_after is None:
        return 0.0
    return error.retry_after.total_seconds()
