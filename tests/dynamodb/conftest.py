"""A wire-level server for each test, with what the test wants of it."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta

import pytest

from changefeed_gateway.core.pace import Pace
from tests.dynamodb.gateway import IMPATIENT, LONGEST_PAUSE
from tests.dynamodb.scene import Scene
from tests.dynamodb.server.behaviour import Behaviour
from tests.dynamodb.server.wire import WireServer

StartServer = Callable[[Behaviour], WireServer]


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    with ExitStack() as running:
        yield lambda behaviour: running.enter_context(WireServer(behaviour))


@pytest.fixture
def server(start_server: StartServer) -> WireServer:
    return start_server(Behaviour())


@pytest.fixture
async def scene(server: WireServer) -> AsyncIterator[Scene]:
    scene = Scene(server)
    await scene.write(scene.shop.create)
    await scene.serve()
    yield scene
    await scene.kill()


@pytest.fixture
async def slow_scene(server: WireServer) -> AsyncIterator[Scene]:
    """Asks seldom when nothing happens."""
    pace = Pace(shortest_pause=timedelta(milliseconds=50), longest_pause=LONGEST_PAUSE)
    scene = Scene(server, pace=pace)
    await scene.write(scene.shop.create)
    await scene.serve()
    yield scene
    await scene.kill()


@pytest.fixture
async def impatient_scene(server: WireServer) -> AsyncIterator[Scene]:
    """Gives a call up after a second."""
    scene = Scene(server, retries=IMPATIENT)
    await scene.write(scene.shop.create)
    await scene.serve()
    yield scene
    await scene.kill()


@pytest.fixture
async def thinking_scene(scene: Scene) -> Scene:
    """Each GetRecords takes a while, so that those made at one time are counted as such."""
    scene.server.behaviour.thinking = timedelta(milliseconds=10)
    return scene


@pytest.fixture
async def timed_scene(server: WireServer) -> AsyncIterator[Scene]:
    """The connection has opted into AT_TIMESTAMP."""
    scene = Scene(server, at_timestamp=True)
    await scene.write(scene.shop.create)
    await scene.serve()
    yield scene
    await scene.kill()
