"""The demo on each database that has a stand-in on this machine: what was committed is received."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.demo.__main__ import STAGES
from tests.spanner.emulator import program_or_verdict

PATIENCE = 120
"""Seconds for a demo of two seconds."""


@pytest.mark.parametrize("provider", STAGES)
async def test_nothing_is_lost_while_gateway_and_consumer_are_killed(provider: str, tmp_path: Path) -> None:
    if provider == "spanner":
        program_or_verdict()
    demo = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.demo", provider, "--for", "2"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env=os.environ | {"CHANGEFEED_LISTEN": "127.0.0.1:0", "TMPDIR": str(tmp_path)},
    )
    async with asyncio.timeout(PATIENCE):
        out, err = (text.decode() for text in await demo.communicate())
    assert demo.returncode == 0, (out, err)
    assert "the gateway is killed" in err
    assert "the consumer is killed" in err
    assert " 0 twice" in out
    assert "equal to the source" in out
    assert "lost       nothing" in out
    assert "committed  0" not in out
    assert not os.listdir(tmp_path)
