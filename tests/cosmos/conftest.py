"""A wire-level server for each test, with what the test wants of it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

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
