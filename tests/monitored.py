"""A gateway of settings in this process, and what it shows of itself over HTTP."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from changefeed_client import ChangeFeedClient, connect
from changefeed_gateway.app.gateway import Gateway, open_gateway
from changefeed_gateway.settings import Connection, Settings
from changefeed_gateway.settings.model import MonitoringSettings, TokenKeySettings, TokenSettings
from changefeed_gateway.settings.values import HostPort

ANY_PORT = HostPort("127.0.0.1", 0)
_KEY = TokenKeySettings.model_validate({"id": "tests", "secret": "a secret of the tests"})


class Monitored:
    """A running gateway."""

    def __init__(self, gateway: Gateway, client: ChangeFeedClient) -> None:
        self.gateway, self.client = gateway, client

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page."""
        return await asyncio.to_thread(_get, f"http://{self.gateway.monitoring}{path}")

    async def samples(self) -> list[Sample]:
        """Every number that the gateway shows."""
        status, text = await self.get("/metrics")
        assert status == 200, text
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    async def value(self, name: str, **labels: str) -> float | None:
        """The one sample of a name that has these labels; None when there is none."""
        found = [s.value for s in await self.samples() if s.name == name and labels.items() <= s.labels.items()]
        assert len(found) <= 1, f"{name} is shown {len(found)} times for {labels}"
        return found[0] if found else None

    async def ready(self, path: str = "/readyz") -> bool:
        """Whether a page of readiness says so."""
        status, text = await self.get(path)
        assert status in (200, 503), text
        return status == 200

    async def until_ready(self, ready: bool, path: str = "/readyz", seconds: float = 60.0) -> float:
        """Wait until readiness is so; answers the seconds that it took."""

        async def is_so() -> bool:
            return await self.ready(path) is ready

        return await until(is_so, seconds)


@asynccontextmanager
async def monitored(connections: Mapping[str, Connection], **settings: Any) -> AsyncIterator[Monitored]:
    """Open a gateway on free ports; its first checks are over."""
    chosen = Settings(
        listen=ANY_PORT,
        connections=dict(connections),
        monitoring=MonitoringSettings(listen=ANY_PORT),
        tokens=TokenSettings(keys=(_KEY,)),
        **settings,
    )
    async with open_gateway(chosen) as gateway, connect(gateway.target) as client:
        running = Monitored(gateway, client)
        await running.until_ready(True)
        yield running


async def until(true: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> float:
    """Ask until something is true; answers the seconds that it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(seconds):
        while True:
            if await true():
                return loop.time() - began
            # Who is asked answers over HTTP, and tells nobody of a change.
            await asyncio.sleep(0.02)


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
