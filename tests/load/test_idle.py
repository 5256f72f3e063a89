"""An idle feed costs next to nothing, and every empty answer carries a token that resumes."""

import asyncio
import time
from pathlib import Path

import psutil
import pytest

from tests.conformance.client import NOW, after, logical
from tests.databases import LOG, PostgresForTests
from tests.load.database_relay import DatabaseRelay
from tests.load.scene import keys, open_scene

pytestmark = [pytest.mark.xdist_group("load"), pytest.mark.timeout(120)]

WAIT = 3.0
"""Seconds of each long poll."""
POLLS = 21


@pytest.mark.req("E1", "P4")
async def test_long_polls_wait_without_a_busy_loop(postgres: PostgresForTests, tmp_path: Path) -> None:
    dsn = await postgres.fresh(LOG)
    relay = DatabaseRelay(dsn)
    try:
        async with open_scene(postgres, tmp_path, dsn=dsn, gateway_dsn=await relay.start()) as scene:
            await scene.insert()
            process = psutil.Process(scene.gateway.pid)
            scopes = [None, logical("0"), logical("7")]
            starts = [after((await scene.client.read(NOW, scope=scope)).continuation_token) for scope in scopes]
            # What begins a wait costs more than waiting, so it is over before the count begins.
            await asyncio.gather(*(scene.client.read(start, wait=0.5) for start in starts))
            asked, cpu, began = relay.asked, sum(process.cpu_times()[:2]), time.monotonic()
            pages = await asyncio.gather(*(scene.client.read(start, wait=WAIT) for start in starts * (POLLS // 3)))
            elapsed = time.monotonic() - began
            asked, cpu = relay.asked - asked, sum(process.cpu_times()[:2]) - cpu
            print(f"{len(pages)} long polls of {WAIT:g} s: {elapsed:.2f} s, {asked} packets, {cpu:.2f} s of CPU")
            assert not [page for page in pages if page.events]
            assert elapsed >= WAIT * 0.9
            assert asked < 10 * elapsed + 5 * len(pages)
            assert cpu < 1
            written = await scene.insert()
            for page, expected in zip(pages, (written, written, []), strict=False):
                found = await scene.client.read(after(page.continuation_token), wait=0.5)
                assert keys(found.events) == expected
    finally:
        await relay.stop()


@pytest.mark.req("P4", "US2.1")
async def test_a_heartbeat_resumes(postgres: PostgresForTests, tmp_path: Path) -> None:
    async with open_scene(postgres, tmp_path) as scene:
        await scene.insert(5)
        for scope, expected in (
            (None, lambda zero, one: zero + one),
            (logical("0"), lambda zero, _: zero),
            (logical("7"), lambda *_: []),
        ):
            async with scene.client.subscribe(NOW, scope=scope, heartbeat=0.5) as stream:
                await stream.until("heartbeat")
                began = time.monotonic()
                await stream.until("heartbeat")
                assert 0.3 < time.monotonic() - began < 8, "not the usual 10 s"
                written = await scene.insert()
                elsewhere = await scene.insert(shelf=1)
                token = stream.token
            found = keys((await scene.client.read(after(token), wait=1)).events)
            assert found == expected(written, elsewhere)
