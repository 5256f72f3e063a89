"""The vendor's own DynamoDB Local, from the jars that the Makefile fetched."""

import asyncio
import shutil
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from botocore.config import Config

from tests.dynamodb.sdk import session
from tests.listening import free_port

JARS = Path(__file__).parents[2] / ".dynamodb-local"
MAIN = "com.amazonaws.services.dynamodbv2.local.main.ServerRunner"
PATIENCE = 60
"""Seconds for it to answer its first request."""


@asynccontextmanager
async def running_dynamodb_local() -> AsyncIterator[str]:
    """Run one, in memory, on a free loopback port; gives its URL. Raises RuntimeError when it cannot be started."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *_command(port), cwd=JARS, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}"
        await _until_it_answers(url, process)
        await asyncio.to_thread(_use_first, url)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _command(port: int) -> list[str]:
    java = shutil.which("java")
    if java is None or not (JARS / ".stamp").exists():
        raise RuntimeError("DynamoDB Local is not set up: install a JDK and Maven, run make .dynamodb-local/.stamp")
    # It lives for minutes: what the better compiler and the parallel collector take, it never gives back.
    brief = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
    options = ["-Xmx256m", f"-Djava.library.path={JARS}", "-cp", f"{JARS}/*"]
    return [java, *brief, *options, MAIN, "-inMemory", "-sharedDb", "-disableTelemetry", "-port", str(port)]


async def _until_it_answers(url: str, process: Process) -> None:
    async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as client:
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"DynamoDB Local ended with {process.returncode}: needs Java 17 or newer")
            try:
                # Without a signature it is a bad request: an answer all the same.
                async with client.get(url):
                    return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.1)


def _use_first(url: str) -> None:
    """Make a table and drop it: on a busy machine a cold server takes longer for these than a test's client waits."""
    tables = session().client("dynamodb", endpoint_url=url, config=Config(read_timeout=PATIENCE))
    tables.create_table(
        TableName="first",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
    )
    tables.delete_table(TableName="first")
