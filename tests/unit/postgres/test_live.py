"""What came with ticks is kept for readers, and for no longer."""

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from changefeed_gateway.providers.postgres.ticks.live import LivePage, LivePages
from changefeed_gateway.providers.postgres.ticks.sequences import SequenceWatch
from changefeed_gateway.providers.postgres.ticks.tick import Tick
from changefeed_gateway.providers.postgres.ticks.ticker import Cadence
from tests.virtual_time import VirtualTime

BASE = Tick(1, 1, 1, frozenset(), 0, 1, datetime(2026, 1, 2, tzinfo=UTC))


@pytest.mark.req("P7")
def test_a_feed_that_nobody_reads_any_more_keeps_no_page() -> None:
    loop = VirtualTime()

    async def scenario() -> None:
        live = LivePages()
        feed: Any = SimpleNamespace(live=live, ticker=SimpleNamespace(waiting=False))
        nothing: Any = None
        watch = SequenceWatch(nothing, lambda: [feed], Cadence(), timedelta(hours=1))
        watching = asyncio.create_task(watch.run(lambda: None))
        with live.waited_for():
            live.keep(LivePage(BASE, [BASE], []))
            for _ in range(3):
                loop.now += 1.0
                await loop.turns()
            assert live.after(BASE.id) is not None
        loop.now += 0.04
        live.let_go()
        assert live.after(BASE.id) is not None, "its reader has left the wait, and comes for it"
        loop.now += 1.0
        await loop.turns()
        assert live.after(BASE.id) is None
        watching.cancel()

    loop.run(scenario())
