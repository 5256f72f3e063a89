"""How a stream's reads sit out what passes."""

import asyncio
from datetime import timedelta

import pytest

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import ChangeFeedError, Throttled, TransientFailure
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import After, Feed, PageRead
from changefeed_gateway.core.page import EncodedPage
from changefeed_gateway.core.reader import PatientReader, nothing_after
from tests.properties.numbered_log import FEED, READ, cursor
from tests.virtual_time import VirtualTime

_PAGE = nothing_after(After(cursor(0)), more_available=False)


class _Failing:
    """A reader that fails with one error after the other, and then has a page."""

    draining = False

    def __init__(self, *errors: ChangeFeedError) -> None:
        self._errors = list(errors)
        self.asked_at: list[float] = []

    async def read(self, feed: Feed, read: PageRead) -> EncodedPage:
        self.asked_at.append(monotonic())
        if self._errors:
            raise self._errors.pop(0)
        return _PAGE


def _read(failing: _Failing) -> EncodedPage:
    """In virtual time, with half a minute of patience."""
    reader = PatientReader(failing, Limits(outage_patience=timedelta(seconds=30)))
    loop = VirtualTime()

    async def scenario() -> EncodedPage:
        reading = asyncio.create_task(reader.read(FEED, READ))
        await loop.turns()
        while not reading.done():
            loop.now += 0.0625
            await loop.turns()
        return await reading

    return loop.run(scenario())


def _throttled(seconds: float) -> Throttled:
    return Throttled("come back later", retry_after=timedelta(seconds=seconds))


def test_who_throttles_is_left_alone_for_as_long_as_it_asks() -> None:
    failing = _Failing(_throttled(5), _throttled(7), TransientFailure("away", retry_after=timedelta(seconds=9)))
    assert _read(failing) is _PAGE
    first, second, third, fourth = failing.asked_at
    assert second - first >= 5
    assert third - second >= 7
    assert fourth - third < 3, "what is away is asked soon"


@pytest.mark.parametrize("before", [(), (_throttled(5),)])
def test_a_pause_that_outlasts_patience_is_told_at_once(before: tuple[Throttled, ...]) -> None:
    failing = _Failing(*before, _throttled(29 if before else 31))
    with pytest.raises(Throttled) as caught:
        _read(failing)
    assert caught.value.retry_after is not None, "and whoever is told knows when to come back"
    assert len(failing.asked_at) == len(before) + 1
