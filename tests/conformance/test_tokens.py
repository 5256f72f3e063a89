"""Continuation tokens: what they are made of, and that a misused one fails loudly (P6)."""

import asyncio
import base64
import json
import random
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from changefeed_gateway.core.model import Address
from changefeed_gateway.core.token import TokenKey
from tests.conformance.backend import Item
from tests.conformance.client import (
    ENTIRE,
    NOW,
    Client,
    Refusal,
    after,
    invalid,
    logical,
    physical,
    refusal,
)
from tests.conformance.journal import ids
from tests.conformance.world import CONNECTION, FOREIGN, TWIN, World
from tests.gateway import TOKEN_KEY

ITEM = Item("p1", "a")
TOKEN_REASONS = {"TOKEN_MALFORMED", "TOKEN_SIGNATURE", "TOKEN_VERSION"}


def envelope(token: str) -> dict[str, object]:
    """What a token says, for a test only: callers must not look."""
    body = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    assert isinstance(body, dict)
    return body


def sealed(body: dict[str, object]) -> str:
    """An envelope as a token, its signature as it may be."""
    raw = json.dumps(body, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


async def refused_everywhere(client: Client, token: str, reason: str) -> None:
    """Every call that takes the token refuses it in the same way; only inspection answers, and says why."""
    answers: list[Awaitable[object]] = [
        client.read(after(token)),
        client.resolve(after(token)),
        client.subscribe(after(token)).next(),
    ]
    for answer in answers:
        found = await invalid(answer, reason)
        assert found.fields == ["start_position.continuation_token"]
        assert token not in found.message
        assert token not in found.metadata.values()
    report = await client.inspect(token)
    assert not report.usable
    problem = Refusal.of_status(report.problem)
    assert (problem.category, problem.reason) == ("INVALID_REQUEST", reason)


@pytest.mark.req("CF-06")
async def test_a_token_is_a_base64_json_envelope(world: World) -> None:
    token = (await world.client.read(NOW)).continuation_token
    body = envelope(token)
    assert body["schemaVersion"] == 1
    assert body["providerId"] == world.backend.provider_id
    assert body["resourceFingerprint"]
    assert body["providerCursor"]


@pytest.mark.req("CF-06", "P6")
async def test_a_token_altered_anywhere_is_refused(world: World) -> None:
    token = (await world.client.read(NOW)).continuation_token
    for position in range(0, len(token), 5):
        other = "A" if token[position] != "A" else "B"
        altered = token[:position] + other + token[position + 1 :]
        found = await refusal(world.client.read(after(altered)))
        assert found.category == "INVALID_REQUEST"
        assert found.reason in TOKEN_REASONS
    for altered in (token[:-1], token[1:], token + "A", token + "=", token.swapcase(), token * 2, " " + token):
        assert (await refusal(world.client.read(after(altered)))).reason in TOKEN_REASONS


@pytest.mark.req("CF-06", "P6")
@pytest.mark.parametrize("field", ["providerId", "resourceFingerprint", "providerCursor", "scope", "issuedAt"])
async def test_an_envelope_whose_content_was_changed_is_refused(world: World, field: str) -> None:
    body = envelope((await world.client.read(NOW)).continuation_token)
    body[field] = {"physical": "other"} if field == "scope" else "other"
    await refused_everywhere(world.client, sealed(body), "TOKEN_SIGNATURE")


@pytest.mark.req("US1.3", "CF-06", "E5", "P6")
async def test_a_token_of_another_provider_is_refused(world: World) -> None:
    foreign = world.client.of(world.backend.address(FOREIGN))
    token = (await foreign.read(NOW)).continuation_token
    await refused_everywhere(world.client, token, "TOKEN_WRONG_PROVIDER")
    own = (await world.client.read(NOW)).continuation_token
    await refused_everywhere(foreign, own, "TOKEN_WRONG_PROVIDER")


@pytest.mark.req("CF-06", "E5", "P6")
async def test_a_token_of_another_connection_or_collection_is_refused(world: World) -> None:
    elsewhere = [world.backend.address(TWIN), await world.backend.neighbour(CONNECTION)]
    for address in elsewhere:
        token = (await world.client.of(address).read(NOW)).continuation_token
        await refused_everywhere(world.client, token, "TOKEN_WRONG_RESOURCE")


@pytest.mark.req("CF-06", "E5", "P6")
async def test_a_token_of_a_recreated_collection_is_refused(world: World) -> None:
    await world.write(3)
    token = (await world.client.read(NOW)).continuation_token
    await world.backend.recreate()
    await refused_everywhere(world.client, token, "TOKEN_RESOURCE_RECREATED")
    assert not (await world.client.read(NOW)).events


@pytest.mark.req("CF-05", "CF-06", "P6")
async def test_a_token_of_another_scope_is_refused_and_brings_its_own_when_none_is_asked(world: World) -> None:
    event = await world.learn(ITEM)
    scopes = [ENTIRE, physical(event.partition_id)]
    if await world.can("CHANGE_FEED_LOGICAL_PARTITION_SCOPE"):
        scopes += [logical(event.key.partition_key), logical(event.key.partition_key + "0")]
    tokens = [(await world.client.read(NOW, scope=scope)).continuation_token for scope in scopes]
    for scope, token in zip(scopes, tokens, strict=True):
        for other in scopes:
            if other != scope:
                await invalid(world.client.read(after(token), scope=other), "TOKEN_WRONG_SCOPE")
                await invalid(world.client.subscribe(after(token), scope=other).next(), "TOKEN_WRONG_SCOPE")
        assert not (await world.client.read(after(token), scope=scope)).events
        assert (await world.client.inspect(token)).scope == scope
    await world.put(ITEM)
    counts = [len((await world.client.read_all(after(token))).events) for token in tokens]
    assert counts == [1, 1, 1, 0][: len(tokens)]


@pytest.mark.req("CF-06", "P6")
async def test_a_token_of_a_future_version_is_refused(world: World) -> None:
    body = envelope((await world.client.read(NOW)).continuation_token)
    body["schemaVersion"] = 2
    await refused_everywhere(world.client, sealed(body), "TOKEN_VERSION")
    await refused_everywhere(world.client, sealed({"schemaVersion": 99, "anything": []}), "TOKEN_VERSION")


@pytest.mark.req("CF-06", "P6")
async def test_keys_rotate_and_an_unknown_one_is_refused(world: World) -> None:
    new = TokenKey(key_id="second", secret=b"the next secret of the tests")
    old_token = (await world.client.read(NOW)).continuation_token
    await world.put(ITEM)
    await world.serve(keys=[new, TOKEN_KEY])
    page = await world.client.read(after(old_token))
    assert len(page.events) == 1
    assert (await world.client.inspect(old_token)).key_id == "first"
    assert (await world.client.inspect(page.continuation_token)).key_id == "second"
    await world.serve(keys=[TokenKey(key_id="third", secret=b"a secret nobody shares")])
    await refused_everywhere(world.client, old_token, "TOKEN_SIGNATURE")
    await world.serve(keys=[TokenKey(key_id="first", secret=b"same name, other secret")])
    await refused_everywhere(world.client, old_token, "TOKEN_SIGNATURE")


@pytest.mark.req("CF-06", "P6")
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
@given(noise=st.binary(min_size=1, max_size=300) | st.text(min_size=1, max_size=100))
async def test_noise_is_never_a_token(world: World, noise: bytes | str) -> None:
    token = noise if isinstance(noise, str) else base64.urlsafe_b64encode(noise).decode()
    found = await refusal(world.client.read(after(token)))
    assert (found.code, found.category) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert found.reason in TOKEN_REASONS


@pytest.mark.req("CF-06", "P6")
async def test_random_tokens_are_refused(world: World) -> None:
    dice = random.Random(6)

    async def attempt() -> str:
        token = base64.urlsafe_b64encode(dice.randbytes(dice.randint(1, 400))).decode()
        return (await refusal(world.client.read(after(token)))).reason

    for _ in range(4):
        assert set(await asyncio.gather(*(attempt() for _ in range(100)))) == {"TOKEN_MALFORMED"}


@pytest.mark.req("CF-06")
async def test_inspection_explains_a_token(world: World) -> None:
    await world.write(3)
    token = (await world.client.read(NOW)).continuation_token
    report = await world.client.inspect(token)
    assert report.usable
    assert not report.HasField("problem")
    assert (report.schema_version, report.provider, report.key_id) == (1, world.backend.provider_id, "first")
    assert report.scope == ENTIRE
    assert abs(report.issue_time.ToDatetime(UTC) - datetime.now(UTC)) < timedelta(minutes=1)
    retention = (await world.client.capabilities()).HasField("retention")
    assert report.HasField("token_expire_time") == retention


@pytest.mark.req("CF-04", "P4")
async def test_a_resolved_token_is_its_start(world: World) -> None:
    start = await world.origin()
    await world.write(10)
    everything = ids((await world.client.read_all(start)).events)
    resolved = await world.client.resolve(start)
    assert set(ids((await world.client.read_all(after(resolved.continuation_token))).events)) == set(everything)
    again = await world.client.resolve(after(resolved.continuation_token))
    assert set(ids((await world.client.read_all(after(again.continuation_token))).events)) == set(everything)


@pytest.mark.req("P6", "E5")
@pytest.mark.parametrize(
    ("connection", "database", "collection", "reason"),
    [
        ("nobody", "", None, "CONNECTION_NOT_FOUND"),
        (CONNECTION, "no such database", None, "DATABASE_NOT_FOUND"),
        (CONNECTION, "", "no such collection", "COLLECTION_NOT_FOUND"),
    ],
)
async def test_an_address_that_leads_nowhere_is_not_found(
    world: World, connection: str, database: str, collection: str | None, reason: str
) -> None:
    known = world.backend.address(connection)
    lost = world.client.of(Address(connection=connection, database=database, collection=collection or known.collection))
    token = (await world.client.read(NOW)).continuation_token
    answers: list[Awaitable[object]] = [
        lost.read(NOW),
        lost.read(after(token)),
        lost.partitions(),
        lost.capabilities(),
        lost.resolve(NOW),
        lost.subscribe(NOW).next(),
    ]
    for answer in answers:
        found = await refusal(answer)
        assert (found.code, found.category, found.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND", reason)
