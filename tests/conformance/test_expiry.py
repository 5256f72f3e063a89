"""Trimmed history: CHECKPOINT_EXPIRED with a remedy, never a quiet gap."""

from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.conformance.backend import Hook, Item
from tests.conformance.client import (
    BEGINNING,
    NOW,
    Refusal,
    Scope,
    after,
    at_time,
    logical,
    physical,
    refused,
)
from tests.conformance.world import World
from tests.gateway import QUICK

pytestmark = pytest.mark.needs(Hook.TRIM)

ITEM = Item("p1", "a")


async def expired(answer: Awaitable[object], reason: str = "CHECKPOINT_EXPIRED") -> None:
    """Expect the one answer that says that history is gone and what to do."""
    found = await refused(answer, "CHECKPOINT_EXPIRED", reason, grpc.StatusCode.OUT_OF_RANGE)
    _check_remedy(found)


def _check_remedy(found: Refusal) -> None:
    assert found.metadata["retryable"] == "false"
    assert found.retry_delay is None
    assert "beginning" in found.message
    assert "now" in found.message


@pytest.mark.req("US2.2", "CF-08", "E3", "P6")
async def test_a_token_whose_history_was_trimmed_is_expired_in_every_call_and_scope(world: World) -> None:
    event = await world.learn(ITEM)
    scopes: list[Scope | None] = [None, physical(event.partition_id)]
    if await world.can("CHANGE_FEED_LOGICAL_PARTITION_SCOPE"):
        scopes.append(logical(event.key.partition_key))
    tokens = [(await world.client.read(NOW, scope=scope)).continuation_token for scope in scopes]
    await world.put(ITEM)
    await world.put(ITEM)
    await world.backend.trim()
    for token in tokens:
        await expired(world.client.read(after(token)))
        await expired(world.client.read(after(token), wait=5))
        await expired(world.client.resolve(after(token)))
        report = await world.client.inspect(token)
        assert not report.usable
        _check_remedy(Refusal.of_status(report.problem))


@pytest.mark.req("US2.2", "CF-08", "P6")
async def test_a_stream_from_trimmed_history_is_expired(world: World) -> None:
    token = (await world.client.read(NOW)).continuation_token
    await world.put(ITEM)
    await world.backend.trim()
    await expired(world.client.subscribe(after(token)).until("batch"))


@pytest.mark.req("US2.2", "P4")
async def test_a_reader_that_had_read_everything_loses_nothing_by_a_trim(world: World) -> None:
    start = await world.origin()
    await world.write(20)
    token = (await world.client.read_all(start)).token
    await world.backend.trim()
    known = len(world.journal.commits)
    await world.write(20)
    world.journal.check((await world.client.read_all(after(token))).events, since=known)


@pytest.mark.req("E1", "P4")
async def test_an_idle_readers_token_stays_young(world: World) -> None:
    await world.restart(limits=replace(QUICK, max_wait=timedelta(milliseconds=100)))
    busy = (await world.learn(ITEM)).partition_id
    idle = next((p.partition_id for p in await world.client.partitions() if p.partition_id != busy), None)
    scope = None if idle is None else physical(idle)
    token = (await world.client.read(NOW, scope=scope)).continuation_token
    async with world.client.subscribe(NOW, scope=scope, heartbeat=0.05) as stream:
        await stream.until_live()
        await world.put(ITEM)
        token = (await world.client.read_all(after(token))).token
        # Longer than one wait at the tail: heartbeats move with it.
        for _ in range(8):
            await stream.until("heartbeat")
    await world.backend.trim()
    for saved in (token, stream.token):
        assert not (await world.client.read(after(saved))).events


@pytest.mark.req("US2.2")
async def test_a_live_stream_goes_on_through_a_trim(world: World) -> None:
    async with world.client.subscribe(NOW) as stream:
        await stream.until_live()
        await world.write(5)
        await stream.until_events(5)
        await world.backend.trim()
        await world.write(5)
        await stream.until_events(10)
    world.journal.check(stream.events)


@pytest.mark.req("CF-04", "CF-08")
async def test_beginning_after_a_trim_is_what_is_left(world: World) -> None:
    if not await world.can("CHANGE_FEED_BEGINNING"):
        return
    await world.write(10)
    await world.backend.trim()
    known = len(world.journal.commits)
    assert not (await world.client.read_all(BEGINNING)).events
    await world.write(10)
    world.journal.check((await world.client.read_all(BEGINNING)).events, since=known)


@pytest.mark.req("CF-04", "CF-08")
async def test_a_time_before_the_retained_history_is_refused(world: World) -> None:
    if not await world.can("CHANGE_FEED_POINT_IN_TIME"):
        return
    event = await world.learn(ITEM)
    await world.write(10)
    moved = await world.backend.trim()
    time = Timestamp()
    time.FromDatetime(event.commit_timestamp.ToDatetime() - moved)
    reason = "START_TIME_BEFORE_RETENTION"
    await expired(world.client.read(at_time(time)), reason)
    await expired(world.client.subscribe(at_time(time)).next(), reason)


@pytest.mark.req("US2.2", "CF-10")
@pytest.mark.needs(Hook.SPLIT)
async def test_a_partition_that_retired_and_was_trimmed_away_is_expired_for_its_readers(world: World) -> None:
    event = await world.learn(ITEM)
    scope = physical(event.partition_id)
    token = (await world.client.read(NOW, scope=scope)).continuation_token
    await world.put(ITEM)
    await world.backend.split(event.partition_id)
    children = (await world.client.read_all(after(token))).pages[-1].child_partitions
    await world.put(ITEM)
    await world.backend.trim()
    await expired(world.client.read(after(token)))
    for child in children:
        await expired(world.client.read(after(child.continuation_token)))


@pytest.mark.req("US2.2", "CF-10")
@pytest.mark.needs(Hook.SPLIT, Hook.FORGET)
async def test_a_partition_that_retired_and_was_trimmed_away_is_not_listed_any_more(world: World) -> None:
    event = await world.learn(ITEM)
    scope = physical(event.partition_id)
    token = (await world.client.read(NOW, scope=scope)).continuation_token
    await world.put(ITEM)
    await world.backend.split(event.partition_id)
    children = (await world.client.read_all(after(token))).pages[-1].child_partitions
    await world.put(ITEM)
    await world.backend.trim()
    listed = {p.partition_id: p for p in await world.client.partitions()}
    assert event.partition_id not in listed
    for child in children:
        assert list(listed[child.partition_id].parent_partition_ids) == []
    if await world.can("CHANGE_FEED_BEGINNING"):
        answer = world.client.read(BEGINNING, scope=scope)
        await refused(answer, "NOT_FOUND", "PARTITION_NOT_FOUND", grpc.StatusCode.NOT_FOUND)


@pytest.mark.req("P1", "P4", "CF-10")
@pytest.mark.needs(Hook.SPLIT)
async def test_a_reader_of_everything_that_is_up_to_date_survives_the_end_of_a_parent(world: World) -> None:
    event = await world.learn(ITEM)
    token = (await world.client.read(NOW)).continuation_token
    await world.put(ITEM)
    await world.backend.split(event.partition_id)
    token = (await world.client.read_all(after(token))).token
    await world.backend.trim()
    known = len(world.journal.commits)
    await world.write(10)
    world.journal.check((await world.client.read_all(after(token))).events, since=known)
