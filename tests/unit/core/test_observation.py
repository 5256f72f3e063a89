"""What is counted under which name, and that names are bounded in number."""

import gc
import weakref
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from changefeed_gateway.core.answer import (
    Batch,
    Closing,
    ClosingReason,
    Heartbeat,
    Opened,
    StateChanged,
    SubscriptionState,
)
from changefeed_gateway.core.errors import Reason, TransientFailure
from changefeed_gateway.core.model import Address, CapabilityName, Feed, ItemState
from changefeed_gateway.core.observation import MOST_FEEDS, MOST_REASONS, OTHERS, Distribution, FeedName, Observation
from changefeed_gateway.core.streams import Progress, Standing, Streams

NAME = FeedName("main", "documents")
FEED = Feed(
    address=Address(connection="main", database="app", collection="documents"),
    provider_id="memory",
    incarnation="1",
    capabilities=(),
    item_state=ItemState.INCLUDED,
    single_order=True,
)
OPENED = Opened(feed=FEED, token="t", heartbeat=timedelta(seconds=10), expire_time=None)
EARLIER, LATER = (datetime(2026, 11, day, tzinfo=UTC) for day in (1, 2))


def test_feeds_beyond_a_number_are_counted_together() -> None:
    observation = Observation()
    names = {
        observation.feed(Address(connection="main", database="", collection=str(n))) for n in range(2 * MOST_FEEDS)
    }
    assert len(names) == MOST_FEEDS + 1
    assert FeedName("main", OTHERS) in names
    assert observation.feed(Address(connection="main", database="", collection="0")) == FeedName("main", "0")


def test_reasons_beyond_a_number_are_counted_together() -> None:
    observation = Observation()
    for number in range(2 * MOST_REASONS):
        observation.call_ended("ReadChanges", "UNKNOWN", None, reason=str(number))
    assert len(observation.errors) == MOST_REASONS + 1
    assert observation.errors[OTHERS] == MOST_REASONS + len(Reason)
    observation.call_ended("ReadChanges", "UNIMPLEMENTED", None, reason=CapabilityName.BEGINNING.value)
    assert observation.errors.total() == observation.calls.total() == 2 * MOST_REASONS + 1


def test_an_observation_is_in_the_bucket_of_the_first_bound_that_it_does_not_exceed() -> None:
    seen = Distribution()
    for seconds in (0.0, seen.bounds[0], seen.bounds[-1], seen.bounds[-1] + 1):
        seen.observe(seconds)
    assert (seen.counts[0], seen.counts[-2], seen.counts[-1], sum(seen.counts)) == (2, 1, 1, 4)
    assert seen.total == pytest.approx(2 * seen.bounds[-1] + 1 + seen.bounds[0])


async def test_a_stream_counts_what_its_consumer_took_and_ends_with_its_reason() -> None:
    observation = Observation()
    streams = Streams(observation)
    with streams.opening("request", "127.0.0.1") as progress:
        progress.took(OPENED, 10)
        progress.took(StateChanged(state=SubscriptionState.CATCHING_UP), 5)
        progress.took(Batch(records=[b"a", b"b"], token="t", expire_time=LATER, watermark=LATER), 100)
        progress.took(Batch(records=[b"c"], token="t", expire_time=LATER, watermark=None), 50)
        assert progress.watermark == LATER, "a batch that knows none leaves the one before"
        progress.took(Heartbeat(token="t", expire_time=EARLIER, watermark=None), 20)
        assert list(streams) == [progress]
        assert (progress.events, progress.bytes, progress.messages) == (3, 185, 5)
        assert (progress.state, progress.expire_time) == (SubscriptionState.CATCHING_UP, EARLIER)
        progress.took(Closing(reason=ClosingReason.MAX_AGE, token="t", reconnect_after=timedelta(0)), 5)
    assert len(streams) == 0
    assert observation.ended == {(NAME, "max_age"): 1}
    delivered = observation.delivered[NAME, "Subscribe"]
    assert (delivered.events, delivered.bytes, delivered.messages) == (3, 190, 6)


async def test_a_stream_that_fails_or_is_left_is_counted_as_such() -> None:
    observation = Observation()
    streams = Streams(observation)
    for opened, error in ((True, TransientFailure("away")), (True, ConnectionError()), (False, TransientFailure(""))):
        with pytest.raises(type(error)):
            end_with(error, streams, opened=opened)
    assert observation.ended == {(NAME, "failed"): 1, (NAME, "cancelled"): 1}, "what was not opened has no name"


def end_with(error: Exception, streams: Streams, *, opened: bool) -> None:
    with streams.opening("request", "host") as progress:
        if opened:
            progress.took(OPENED, 1)
        raise error


async def test_a_stream_that_has_ended_is_not_left_to_the_garbage_collector() -> None:
    streams = Streams(Observation())
    gc.disable()
    try:
        with streams.opening("request", "host") as progress:
            progress.standing = partial(_standing_of, progress)
            gone = weakref.ref(progress)
        del progress
        assert gone() is None
    finally:
        gc.enable()


def _standing_of(progress: Progress) -> Standing:
    raise AssertionError(progress)
