"""Microsoft's identity platform is loaded by who chooses it, and by nobody else."""

import subprocess
import sys

_MADE = """
import asyncio, sys
from changefeed_gateway.providers.cosmos.provider import CosmosOptions, CosmosProvider
from changefeed_gateway.providers.cosmos.sdk import Endpoint, Sdk, Retries

async def main():
    key = {key}
    sdk = Sdk(Endpoint(url="http://127.0.0.1:9", key=key), "shop", Retries(), max_calls=1)
    client = sdk._make_client()
    await client.close()
    await sdk.aclose()
    print("azure.identity" in sys.modules)

asyncio.run(main())
"""


def loaded(key: str | None) -> bool:
    """Whether making a client loads it."""
    said = subprocess.run(
        [sys.executable, "-c", _MADE.format(key=repr(key))], capture_output=True, text=True, check=True
    )
    return said.stdout.strip() == "True"


def test_a_key_needs_no_identity() -> None:
    assert not loaded("a2V5")


def test_an_identity_is_made_where_there_is_no_key() -> None:
    assert loaded(None)
