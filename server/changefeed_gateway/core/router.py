"""Address to provider, token to cursor, and every check that comes before a read."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import assert_never

from changefeed_gateway.core.answer import (
    ChangeEncoder,
    ChildToken,
    ReadAnswer,
    ReadRequest,
    ResolvedStart,
    StreamItem,
    SubscribeRequest,
    TokenReport,
)
from changefeed_gateway.core.budget import PageBudget
from changefeed_gateway.core.cancellation import only_own_cancellation
from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import (
    ChangeFeedError,
    CheckpointExpired,
    FeedNotProvisioned,
    NotFound,
    ProviderAccessFailed,
    Reason,
    UnsupportedCapability,
)
from changefeed_gateway.core.fanout import FanOut
from changefeed_gateway.core.follower import Follower
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.meter import Meter
from changefeed_gateway.core.model import (
    Address,
    After,
    AtTime,
    Beginning,
    Capability,
    CapabilityName,
    Cursor,
    EntireCollection,
    Feed,
    FromToken,
    ItemState,
    LogicalPartition,
    NewItemStateMode,
    Now,
    Page,
    PageRead,
    Partition,
    PhysicalPartition,
    RequestedStart,
    Scope,
    Snapshot,
    Start,
)
from changefeed_gateway.core.observation import Observation, ReadTrace
from changefeed_gateway.core.observed_provider import ObservedProvider
from changefeed_gateway.core.pace import IdlePlaces
from changefeed_gateway.core.page import EncodedPage, Reader, batches
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.core.requirement import ItemRequirement
from changefeed_gateway.core.ring_budget import RingBudget
from changefeed_gateway.core.snapshot import Scanning
from changefeed_gateway.core.streams import Progress, Streams
from changefeed_gateway.core.subscription import Plan, stream
from changefeed_gateway.core.tails import Tails
from changefeed_gateway.core.token import TokenCodec

_DEADLINE_MARGIN = timedelta(milliseconds=250)
"""What a long poll leaves of the caller's deadline for its answer to travel."""
_REMEDY = "; a start from snapshot brings the items that exist, and the changes after them"


class Router:
    """The meaning of the six calls, whatever the provider. Every method raises only ChangeFeedError."""

    def __init__(
        self,
        *,
        providers: Mapping[str, Provider],
        tokens: TokenCodec,
        limits: Limits,
        encoder: ChangeEncoder,
        trace: ReadTrace | None = None,
    ) -> None:
        """`trace` is told of each question to a provider, after it."""
        self.limits = limits
        self.observation = Observation()
        self.streams = Streams(self.observation)
        self._providers = {
            name: ObservedProvider(provider, name, self.observation.connection(name), trace)
            for name, provider in providers.items()
        }
        self._tokens = tokens
        rings = RingBudget(limits.ring_bytes)
        self._tails = {name: Tails(provider, encoder, limits, rings) for name, provider in self._providers.items()}
        self._budget = PageBudget(limits.page_budget_bytes)
        self.meter = Meter(
            limits=limits,
            observation=self.observation,
            streams=self.streams,
            providers=self._providers,
            tails=self._tails,
            rings=rings,
            pages=self._budget,
        )
        self._draining = False

    @property
    def connections(self) -> Sequence[str]:
        """Names of the connections."""
        return tuple(self._providers)

    async def ping(self, connection: str) -> None:
        """Ask a connection whether it can serve. Raises ChangeFeedError if it cannot."""
        await self._providers[connection].ping()

    async def read_changes(self, request: ReadRequest) -> ReadAnswer:
        """One page: at once if there is a change, after `max_wait` at the latest."""
        # What opening and a first look take is part of the wait.
        deadline = monotonic() + self._wait(request).total_seconds()
        async with self._opened(request.address, request.start) as (tails, feed):
            scope, start = self._position(feed, request.scope, request.start)
            read = self._page_read(feed, scope, start, request.mode, request.page_size)
            reader = self._reader(feed, scope, tails.direct, request.address, idle=tails.idle)
            page = await reader.read(feed, replace(read, then_waits=monotonic() < deadline))
            wait = timedelta(seconds=deadline - monotonic())
            earlier = None
            idle = not (page.content.changes or page.content.retired or page.content.more_available)
            if idle and wait > timedelta(0):
                earlier = page.content
                page = await reader.read(feed, replace(read, start=After(page.content.cursor), max_wait=wait))
            page = self._requirement(feed, scope, request.mode).admit(page)
            await page.encode(items=read.items)
            return self._answer(feed, scope, page, items=read.items, earlier=earlier)

    async def list_partitions(self, address: Address) -> Sequence[Partition]:
        """The partitions that hold retained changes, parents first."""
        async with self._opened(address) as (_, feed):
            return await self._provider(address).list_partitions(feed)

    async def describe_feed(self, address: Address) -> Feed:
        """What a collection can do; one that is not provisioned answers with CHANGE_FEED unsupported."""
        provider = self._provider(address)
        try:
            async with self._opened(address) as (_, feed):
                return feed
        except FeedNotProvisioned as error:
            return Feed(
                address=address,
                provider_id=provider.provider_id,
                incarnation="",
                capabilities=tuple(
                    Capability(name=name, supported=False, detail=str(error)) for name in CapabilityName
                ),
                item_state=ItemState.UNAVAILABLE,
                single_order=False,
            )

    async def resolve_start(self, address: Address, scope: Scope | None, start: RequestedStart) -> ResolvedStart:
        """A start position as a token."""
        async with self._opened(address, start) as (tails, feed):
            known_scope, known_start = self._position(feed, scope, start)
            cursor, page = await self._resolve(tails, feed, known_scope, known_start)
            return ResolvedStart(
                token=self._tokens.issue(feed, known_scope, cursor),
                expire_time=page.content.expire_time,
            )

    async def inspect_token(self, address: Address, token: str) -> TokenReport:
        """What a token is, and whether a read with it would be accepted now."""
        report = TokenReport(problem=None)
        try:
            async with self._opened(address, FromToken(token)) as (tails, feed):
                envelope = self._tokens.open(token)
                # Of another collection's token no more is said than that it is one: it may be somebody else's.
                self._tokens.check_resource(feed, envelope)
                report = TokenReport(
                    problem=None,
                    schema_version=envelope.schema_version,
                    provider_id=envelope.provider_id,
                    scope=envelope.scope,
                    issue_time=envelope.issue_time,
                    key_id=envelope.key_id,
                )
                scope, start = self._position(feed, None, FromToken(token))
                _, page = await self._resolve(tails, feed, scope, start)
                return replace(report, expire_time=page.content.expire_time)
        except ChangeFeedError as problem:
            # Refused credentials of the gateway's own say nothing of the token.
            if problem.retryable or isinstance(problem, ProviderAccessFailed):
                raise
            return replace(report, problem=problem)

    def scope_of(self, token: str) -> Scope:
        """The scope of a token. Raises InvalidRequest when it is none of this gateway's."""
        return self._tokens.open(token).scope

    async def subscribe(
        self, request: SubscribeRequest, *, end_write: Callable[[], None], progress: Progress | None = None
    ) -> AsyncGenerator[StreamItem]:
        """What a stream is sent, in order; close the iterator to end it.

        `end_write` is called when others need the memory of what this stream's consumer keeps waiting longest: the
        write of the last item is to fail as one that took too long. `progress` is told how far it has come.
        """
        provider = self._provider(request.address)
        # A stream stays for hours, so that nothing here may keep more than it must.
        with _Telling(provider.provider_id), only_own_cancellation():
            tails, feed = await self._open(request.address, request.start, shared=True)
        with _Telling(provider.provider_id, feed), only_own_cancellation():
            scope, start = self._position(feed, request.scope, request.start)
            follower = Follower(tails)
            plan = Plan(
                feed=feed,
                read=self._page_read(feed, scope, start, request.mode, request.batch_size),
                heartbeat=self._heartbeat(request.heartbeat),
                max_events=request.max_events,
                requirement=self._requirement(feed, scope, request.mode),
                token=partial(self._tokens.issue, feed),
                draining=self._is_draining,
                turns=tails.turns,
                progress=progress,
            )
            if progress is not None:
                progress.scope = scope
                progress.standing = partial(self.meter.standing, progress, follower)
            try:
                reader = self._reader(feed, scope, follower, request.address)
                async with aclosing(stream(plan, reader, self.limits, self._budget.share(end_write))) as items:
                    async for item in items:
                        yield item
                        del item  # it would be held for as long as nothing follows
            finally:
                await follower.aclose()

    def begin_drain(self) -> None:
        """End every stream with DRAINING and let every waiting read answer at once."""
        self._draining = True
        for tails in self._tails.values():
            tails.begin_drain()

    async def aclose(self) -> None:
        """Stop every tail and close every provider."""
        for tails in self._tails.values():
            await tails.aclose()
        for provider in self._providers.values():
            await provider.aclose()

    def _provider(self, address: Address) -> Provider:
        provider = self._providers.get(address.connection)
        if provider is None:
            raise NotFound(
                f"no connection {address.connection!r} in the gateway's settings",
                reason=Reason.CONNECTION_NOT_FOUND,
            )
        return provider

    @asynccontextmanager
    async def _opened(self, address: Address, start: RequestedStart | None = None) -> AsyncIterator[tuple[Tails, Feed]]:
        provider = self._provider(address)
        with _Telling(provider.provider_id), only_own_cancellation():
            tails, feed = await self._open(address, start)
            with _Telling(provider.provider_id, feed):
                yield tails, feed

    async def _open(
        self, address: Address, start: RequestedStart | None, *, shared: bool = False
    ) -> tuple[Tails, Feed]:
        """`shared`: with those who ask at the same time."""
        if isinstance(start, FromToken):
            # Before anything is waited for: what a stranger sends is not kept.
            self._tokens.verify(start.token)
        tails = self._tails[address.connection]
        return tails, await (tails if shared else self._provider(address)).open_feed(address)

    def _is_draining(self) -> bool:
        return self._draining

    def _position(self, feed: Feed, scope: Scope | None, start: RequestedStart) -> tuple[Scope, Start]:
        """Check a scope and a start against the capabilities, and open a token."""
        if isinstance(scope, LogicalPartition):
            _need(feed, CapabilityName.LOGICAL_PARTITION_SCOPE)
        match start:
            case FromToken(token):
                envelope = self._tokens.open_for(feed, scope, token)
                return envelope.scope, After(envelope.cursor)
            case Beginning():
                _need(feed, CapabilityName.BEGINNING)
            case AtTime():
                _need(feed, CapabilityName.POINT_IN_TIME)
            case Snapshot():
                _need_snapshot(feed, scope)
            case Now():
                pass
            case _:
                assert_never(start)
        return scope or EntireCollection(), start

    def _page_read(self, feed: Feed, scope: Scope, start: Start, mode: NewItemStateMode, size: int) -> PageRead:
        if mode is NewItemStateMode.REQUIRE and feed.item_state is ItemState.UNAVAILABLE:
            _need(feed, CapabilityName.NEW_ITEM_STATE)
        return PageRead(
            scope=scope,
            start=start,
            max_changes=min(size or self.limits.default_page_size, self.limits.max_page_size),
            max_bytes=self.limits.max_message_bytes,
            max_item_bytes=self.limits.max_item_bytes,
            items=mode is not NewItemStateMode.OMIT,
        )

    def _reader(
        self, feed: Feed, scope: Scope, reader: Reader, address: Address, *, idle: IdlePlaces | None = None
    ) -> Reader:
        if feed.single_order:
            return reader
        whole = isinstance(scope, EntireCollection)
        return Scanning(reader, FanOut(reader, self._provider(address), idle) if whole else reader)

    def _requirement(self, feed: Feed, scope: Scope, mode: NewItemStateMode) -> ItemRequirement:
        return ItemRequirement(mode, partial(self._tokens.issue, feed, scope))

    def _wait(self, request: ReadRequest) -> timedelta:
        waits = [request.max_wait, self.limits.max_wait]
        if request.time_remaining is not None:
            waits.append(request.time_remaining - _DEADLINE_MARGIN)
        return max(min(waits), timedelta(0))

    def _heartbeat(self, asked: timedelta | None) -> timedelta:
        wanted = self.limits.default_heartbeat if asked is None else asked
        return min(max(wanted, self.limits.min_heartbeat), self.limits.max_heartbeat)

    async def _resolve(self, tails: Tails, feed: Feed, scope: Scope, start: Start) -> tuple[Cursor, EncodedPage]:
        read = replace(self._page_read(feed, scope, start, NewItemStateMode.OMIT, 0), max_changes=0)
        page = await self._reader(feed, scope, tails.direct, feed.address).read(feed, read)
        return page.content.cursor, page

    def _answer(self, feed: Feed, scope: Scope, page: EncodedPage, *, items: bool, earlier: Page | None) -> ReadAnswer:
        """The first part of the page that fits into one message; `earlier` is the empty one that came before it."""
        part = page
        if page.record_bytes(items=items) > self.limits.max_message_bytes:
            records = page.records(items=items)
            low, high = next(batches(records, max_bytes=self.limits.max_message_bytes, max_count=len(records)))
            part = page.cut(low, high)
        return ReadAnswer(
            feed=feed,
            records=part.records(items=items),
            token=self._tokens.issue(feed, scope, part.content.cursor),
            more_available=part.content.more_available,
            retired=part.content.retired,
            children=tuple(
                ChildToken(
                    partition_id=child.partition_id,
                    parents=child.parents,
                    token=self._tokens.issue(feed, PhysicalPartition(child.partition_id), child.start),
                )
                for child in part.content.children
            ),
            expire_time=part.content.expire_time,
            watermark=part.content.watermark,
            provider_calls=sum(each.provider_calls for each in (earlier, part.content) if each),
            request_charge=sum(each.request_charge for each in (earlier, part.content) if each),
            snapshot=part.content.snapshot,
            warnings=part.content.warnings,
        )


def _need_snapshot(feed: Feed, scope: Scope | None) -> None:
    _need(feed, CapabilityName.SNAPSHOT)
    if isinstance(scope, PhysicalPartition):
        _need(feed, CapabilityName.SNAPSHOT_PHYSICAL_PARTITION_SCOPE)
    elif isinstance(scope, LogicalPartition):
        _need(feed, CapabilityName.SNAPSHOT_LOGICAL_PARTITION_SCOPE)


def _need(feed: Feed, name: CapabilityName) -> None:
    # P5: what the collection cannot do is an error that names it, never an approximation.
    if not feed.supports(name):
        detail = next((c.detail for c in feed.capabilities if c.name is name), "")
        raise UnsupportedCapability(
            f"this collection does not support {name.value}" + (f": {detail}" if detail else ""),
            reason=name.value,
        )


class _Telling:
    """Completes the errors that pass: names the provider, and the start that brings everything again.

    The latter where history is gone, and the collection is known to have it.
    """

    __slots__ = ("_feed", "_provider_id")

    def __init__(self, provider_id: str, feed: Feed | None = None) -> None:
        self._provider_id, self._feed = provider_id, feed

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ChangeFeedError):
            error.metadata.setdefault("provider", self._provider_id)
        if isinstance(error, CheckpointExpired) and self._feed is not None and _REMEDY not in str(error):
            error.args = (f"{error}{_REMEDY if self._feed.supports(CapabilityName.SNAPSHOT) else ''}",)
