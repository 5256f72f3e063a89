"""A wire-level server for each test, with what the test wants of it."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from changefeed_gateway.core.pace import Pace
from changefeed_gateway.providers.cosmos.cursor import Mode
from tests.cosmos.gateway import BRIEF, IMPATIENT, LONGEST_PAUSE
from tests.cosmos.scene import THINGS, Scene
from tests.cosmos.server.behaviour import Behaviour
from tests.cosmos.server.wire import WireServer

StartServer = Callable[[Behaviour], WireServer]


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    with ExitStack() as running:
        yield lambda behaviour: running.enter_context(WireServer(behaviour))


@pytest.fixture
def server(start_server: StartServer) -> WireServer:
    return start_server(Behaviour())


@asynccontextmanager
async def serving(server: WireServer, *, ranges: int | None = None, **options: Any) -> AsyncIterator[Scene]:
    """A scene with its container and its gateway."""
    server.create_container(THINGS, "/pk", ranges=ranges)
    scene = Scene(server, **options)
    await scene.serve()
    try:
        yield scene
    finally:
        await scene.kill()


@pytest.fixture
async def scene(server: WireServer) -> AsyncIterator[Scene]:
    async with serving(server) as scene:
        yield scene


@pytest.fixture
async def latest_scene(server: WireServer) -> AsyncIterator[Scene]:
    """Reads the latest versions."""
    async with serving(server, mode=Mode.LATEST_VERSION) as scene:
        yield scene


@pytest.fixture(params=list(Mode))
async def either_scene(server: WireServer, request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    """Reads either of the two feeds."""
    async with serving(server, mode=request.param) as scene:
        yield scene


@pytest.fixture
async def wide_scene(server: WireServer) -> AsyncIterator[Scene]:
    """Has four ranges."""
    async with serving(server, ranges=4) as scene:
        yield scene


@pytest.fixture
async def slow_scene(server: WireServer) -> AsyncIterator[Scene]:
    """Asks seldom when nothing happens."""
    pace = Pace(shortest_pause=timedelta(milliseconds=50), longest_pause=LONGEST_PAUSE)
    async with serving(server, pace=pace) as scene:
        yield scene


@pytest.fixture
async def brief_scene(server: WireServer) -> AsyncIterator[Scene]:
    """Makes each call once, and leaves it at what the SDK repeats."""
    async with serving(server, retries=BRIEF) as scene:
        yield scene


@pytest.fixture
async def impatient_scene(server: WireServer) -> AsyncIterator[Scene]:
    """Gives a call up after a second."""
    async with serving(server, retries=IMPATIENT) as scene:
        yield scene
