"""Runs every case of this folder on every backend of the registry, but for what a case marks as needed."""

from collections.abc import AsyncIterator

import pytest

from tests.conformance.backend import Backend, Hook
from tests.conformance.world import World


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A case marked `needs(Hook...)` runs where the database can be made to do it; the others are not collected."""
    if "backend_name" not in metafunc.fixturenames:
        return
    # Here, because who hands the tests out to other processes needs no driver.
    from tests.conformance.registry import BACKENDS

    needed = {hook for mark in metafunc.definition.iter_markers("needs") for hook in mark.args}
    assert needed <= set(Hook)
    metafunc.parametrize("backend_name", [name for name, kind in BACKENDS.items() if needed <= kind.hooks])


@pytest.fixture
def new_backend(request: pytest.FixtureRequest, backend_name: str) -> Backend:
    from tests.conformance.registry import BACKENDS

    # Not async: only so may a factory ask for fixtures that are.
    return BACKENDS[backend_name].make(request)


@pytest.fixture
async def backend(new_backend: Backend) -> AsyncIterator[Backend]:
    await new_backend.start()
    yield new_backend
    await new_backend.stop()


@pytest.fixture
async def world(backend: Backend) -> AsyncIterator[World]:
    world = World(backend)
    await world.serve()
    yield world
    await world.stop()
