from collections.abc import AsyncIterator

import pytest

from tests.api.gateway import Gateway, serving
from tests.api.router_double import RouterDouble


@pytest.fixture
def router() -> RouterDouble:
    return RouterDouble()


@pytest.fixture
async def gateway(router: RouterDouble) -> AsyncIterator[Gateway]:
    async with serving(router) as gateway:
        yield gateway
