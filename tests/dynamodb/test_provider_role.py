"""A connection that assumes a role: what the service of roles says is told as what it means for the connection."""

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from changefeed_gateway.core.errors import ChangeFeedError, TransientFailure
from changefeed_gateway.core.model import Address
from changefeed_gateway.providers.dynamodb.sdk import Endpoint
from tests.dynamodb.gateway import RETRIES, make_provider
from tests.dynamodb.server.wire import WireServer
from tests.dynamodb.shop import TABLE, Shop

ADDRESS = Address(connection="subject", database="", collection=TABLE)


class Roles:
    """The service that gives out roles; answers what a test chooses."""

    def __init__(self) -> None:
        self.status, self.code, self.calls = 200, "", 0

    async def answer(self, request: web.Request) -> web.Response:
        """AssumeRole, whatever is asked."""
        self.calls += 1
        if self.code:
            body = f"<ErrorResponse><Error><Code>{self.code}</Code><Message>no</Message></Error></ErrorResponse>"
            return web.Response(text=body, status=self.status, content_type="text/xml")
        until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        body = (
            "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE</AccessKeyId>"
            "<SecretAccessKey>secret</SecretAccessKey><SessionToken>session</SessionToken>"
            f"<Expiration>{until}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
        )
        return web.Response(text=body, content_type="text/xml")


@pytest.fixture
async def roles(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Roles]:
    roles = Roles()
    app = web.Application()
    app.router.add_post("/", roles.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{runner.addresses[0][1]}")
    yield roles
    await runner.cleanup()


@pytest.fixture
def endpoint(server: WireServer) -> Endpoint:
    Shop(server.url).create()
    return Endpoint(region="eu-test-1", endpoint_url=server.url, role_arn="arn:aws:iam::123456789012:role/reader")


async def test_a_role_is_assumed_once_for_many_calls(roles: Roles, endpoint: Endpoint) -> None:
    provider = make_provider("", endpoint=endpoint)
    try:
        for _ in range(3):
            await provider.open_feed(ADDRESS)
    finally:
        await provider.aclose()
    assert roles.calls == 1


@pytest.mark.req("E3")
@pytest.mark.parametrize(
    ("status", "code", "outage"),
    [
        (403, "AccessDenied", False),
        (403, "InvalidClientTokenId", False),
        (403, "ExpiredToken", False),
        (400, "Throttling", True),
        (503, "ServiceUnavailable", True),
    ],
)
async def test_a_role_that_is_refused_is_a_refusal_of_the_connection_and_no_unknown_failure(
    roles: Roles, endpoint: Endpoint, status: int, code: str, outage: bool
) -> None:
    roles.status, roles.code = status, code
    provider = make_provider("", endpoint=endpoint, retries=replace(RETRIES, attempts=2))
    try:
        with pytest.raises(ChangeFeedError) as found:
            await provider.open_feed(ADDRESS)
    finally:
        await provider.aclose()
    assert isinstance(found.value, TransientFailure) == outage
    assert outage or "credentials" in str(found.value)


async def test_a_role_without_credentials_to_assume_it_with_is_told_at_the_start(
    monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_EC2_METADATA_DISABLED"]:
        monkeypatch.delenv(name)
    provider = make_provider("", endpoint=endpoint)
    try:
        with pytest.raises(ChangeFeedError, match="role"):
            await provider.start()
    finally:
        await provider.aclose()
