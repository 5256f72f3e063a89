"""The account's key, and what is signed with it, are in no error, no log and no representation."""

import logging
from typing import Any

import pytest
import structlog.testing

from changefeed_gateway.core.errors import ChangeFeedError, ProviderAuthenticationFailed
from changefeed_gateway.core.model import Address
from changefeed_gateway.providers.cosmos.sdk import Endpoint
from tests.cosmos.gateway import BRIEF, make_options, make_provider
from tests.cosmos.scene import THINGS
from tests.cosmos.server.errors import forbidden, invalid, throttled, unavailable, wrong_signature
from tests.cosmos.server.wire import WireServer
from tests.faults import ALWAYS

ADDRESS = Address(connection="subject", database="", collection=THINGS)
MARK = "a text of the service with fake-item-key-8812"


def whole(error: BaseException | None) -> str:
    """An error with all that it was raised from and during."""
    said = ""
    while error is not None:
        said += repr(error) + str(error) + repr(getattr(error, "metadata", ""))
        error = error.__cause__ or error.__context__
    return said


@pytest.mark.parametrize(
    "error",
    [wrong_signature(), forbidden(), invalid(MARK), throttled(60_000), unavailable()],
    ids=lambda error: error.code,
)
async def test_no_refusal_carries_the_key_or_the_services_words(
    server: WireServer, error: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.create_container(THINGS, "/pk")
    caplog.set_level(logging.DEBUG)
    provider = make_provider(server, retries=BRIEF)
    with structlog.testing.capture_logs() as lines:
        try:
            await provider.open_feed(ADDRESS)
            server.fail("*", error, times=ALWAYS)
            with pytest.raises(ChangeFeedError) as found:
                await provider.open_feed(ADDRESS)
        finally:
            await provider.aclose()
    said = whole(found.value) + caplog.text + str(lines)
    for secret in (server.key, "sig=", "sig%3D", MARK, "authorization token"):
        assert secret not in said


async def test_a_key_that_is_none_is_told_without_being_shown(server: WireServer) -> None:
    provider = make_provider(server, endpoint=Endpoint(url=server.url, key="no-base64-fake-key!"))
    try:
        with pytest.raises(ProviderAuthenticationFailed) as found:
            await provider.start()
    finally:
        await provider.aclose()
    assert "fake-key" not in whole(found.value)
    assert "Keys page" in str(found.value)


async def test_a_wrong_key_is_told_at_the_start(server: WireServer) -> None:
    provider = make_provider(server, endpoint=Endpoint(url=server.url, key=server.key[::-1].strip("=") + "="))
    try:
        with pytest.raises(ProviderAuthenticationFailed):
            await provider.start()
    finally:
        await provider.aclose()


async def test_a_read_only_key_will_do(server: WireServer) -> None:
    server.create_container(THINGS, "/pk")
    provider = make_provider(server, endpoint=Endpoint(url=server.url, key=server.readonly_key))
    try:
        await provider.start()
        await provider.ping()
        assert (await provider.open_feed(ADDRESS)).address.database
    finally:
        await provider.aclose()


def test_options_do_not_show_the_key(server: WireServer) -> None:
    assert server.key not in repr(make_options(server))


async def test_an_account_that_is_away_at_the_start_is_waited_for(server: WireServer) -> None:
    server.create_container(THINGS, "/pk")
    server.drop("GetAccount", times=ALWAYS)
    provider = make_provider(server, retries=BRIEF)
    try:
        await provider.start()
        with pytest.raises(ChangeFeedError):
            await provider.ping()
        server.clear_faults()
        await provider.ping()
        assert (await provider.open_feed(ADDRESS)).incarnation
    finally:
        await provider.aclose()
