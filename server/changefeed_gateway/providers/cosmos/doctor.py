"""What `changefeed doctor` looks at for an account: itself, the credentials, and each container's feed."""

from collections.abc import AsyncIterator
from typing import Final

from changefeed_gateway.core.errors import (
    ChangeFeedError,
    FeedNotProvisioned,
    NotFound,
    ProviderAuthenticationFailed,
    ProviderAuthorizationFailed,
    Throttled,
    TransientFailure,
)
from changefeed_gateway.core.finding import Finding
from changefeed_gateway.core.pace import Pace
from changefeed_gateway.core.provider import Examination
from changefeed_gateway.providers.cosmos.container import Container, container_of, is_name
from changefeed_gateway.providers.cosmos.cursor import Mode
from changefeed_gateway.providers.cosmos.errors import RangeGone
from changefeed_gateway.providers.cosmos.life import Life
from changefeed_gateway.providers.cosmos.provider import CosmosOptions
from changefeed_gateway.providers.cosmos.sdk import Sdk

_REMEDIES: Final[tuple[tuple[type[ChangeFeedError], str], ...]] = (
    (ProviderAuthenticationFailed, "copy the key anew from the account's Keys page, or give the identity a role"),
    (
        ProviderAuthorizationFailed,
        "give the identity the role Cosmos DB Built-in Data Reader, and open the firewall",
    ),
    (NotFound, "check the names of database and container, and that the endpoint is this account's"),
    (FeedNotProvisioned, "switch the mode on for the account; changes made before are not in the feed"),
    (Throttled, "give the container more request units, or the connection a larger longest_pause"),
    (TransientFailure, "check the endpoint's name, the network and the account's firewall"),
)


async def examine(options: CosmosOptions) -> Examination:
    """Look at account and credentials, then at each container of the settings."""
    sdk = Sdk(options.endpoint, options.database, options.retries, max_calls=1)
    try:
        try:
            await sdk.connect()
        except ChangeFeedError as error:
            yield _wrong("account", error)
            return
        yield Finding(subject="account", healthy=True, detail="it answers, and takes the credentials")
        yield _mode(options)
        if not options.containers:
            detail = "none is named: doctor looks at those under containers"
            yield Finding(subject="containers", healthy=True, detail=detail)
        for name in sorted(options.containers):
            async for finding in _examine(sdk, name, options):
                yield finding
    finally:
        await sdk.aclose()


def _mode(options: CosmosOptions) -> Finding:
    other = next(mode for mode in Mode if mode is not options.mode)
    return Finding(
        subject="mode",
        healthy=True,
        detail=f"{options.mode}; a token that was made in mode {other} is refused: its reader restarts from now",
    )


async def _examine(sdk: Sdk, name: str, options: CosmosOptions) -> AsyncIterator[Finding]:
    subject = f"container {name}"
    if not is_name(name):
        remedy = "a name has no / \\ ? #, and up to 255 characters"
        yield Finding(subject=subject, healthy=False, detail="it is no name of a container", remedy=remedy)
        return
    try:
        container = container_of(await sdk.read_container(name), options.mode)
    except ChangeFeedError as error:
        yield _wrong(subject, error)
        return
    names = ", ".join(path.name for path in container.paths)
    yield Finding(subject=subject, healthy=True, detail=f"its partition key is {names}")
    yield await _readable(sdk, container, options.pace)


async def _readable(sdk: Sdk, container: Container, pace: Pace) -> Finding:
    """Make each call that a reader makes, once."""
    subject = f"feed of {container.name}"
    life = Life(sdk, container, pace)
    try:
        await life.check_mode()
        listing = await life.ranges.listing()
        reader = life.reader(listing.ranges[-1].interval)
        await reader.now()
        # The first of all also has the SDK look for the ranges.
        _, cost = await reader.now()
    except ChangeFeedError as error:
        return _wrong(subject, error)
    except RangeGone:
        return Finding(subject=subject, healthy=False, detail="it changed meanwhile", remedy="run doctor again")
    finally:
        life.close()
    each = f"a look at an idle one takes {cost.charge:g} request units"
    return Finding(subject=subject, healthy=True, detail=f"{len(listing.ranges)} partitions, readable; {each}")


def _wrong(subject: str, error: ChangeFeedError) -> Finding:
    remedy = next((remedy for kind, remedy in _REMEDIES if isinstance(error, kind)), "see the message")
    return Finding(subject=subject, healthy=False, detail=str(error), remedy=remedy)
