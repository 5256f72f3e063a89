"""DynamoDB: draining shards beside plain boto3 on the same data, and the calls of an idle stream."""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config

from bench.figures import median, spread
from changefeed.v1 import position_pb2, read_changes_pb2, resource_pb2
from changefeed_gateway.core.limits import Limits
from changefeed_gateway.core.model import Address
from changefeed_gateway.providers.dynamodb.provider import DynamoDBOptions, DynamoDBProvider
from changefeed_gateway.providers.dynamodb.sdk import Endpoint
from tests.conformance.client import NOW, Client, wire_address
from tests.gateway import TOKEN_KEY, RunningGateway

_AT_ONCE = 8
"""Shards that both sides read at once."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle-seconds", type=float, default=30.0)


def run(options: argparse.Namespace) -> None:
    os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_EC2_METADATA_DISABLED": "true"}
    for shards in options.shards:
        with serving(shards, options.records) as server:
            rounds = [(plain(server, options.records), asyncio.run(gateway(server))) for _ in range(options.rounds)]
            boto, ours = [list(column) for column in zip(*rounds, strict=True)]
            ratio = median([b / g for b, g in rounds])
            print(
                f"{shards} shards, {options.records} records: boto3 {options.records / median(boto):,.0f}/s,"
                f" gateway {options.records / median(ours):,.0f}/s, ratio {ratio:.2f}"
                f" (spread {spread(boto):.0%} and {spread(ours):.0%})"
            )
    with serving(8, 0) as server:
        calls = asyncio.run(idle(server, options.idle_seconds))
    rate = calls / options.idle_seconds
    print(f"idle, one stream, 8 shards: {rate:.1f} calls a second, {rate / 8:.2f} a shard")


@dataclass(frozen=True)
class Server:
    """The wire-level server, in a process of its own."""

    url: str
    table: str
    stream: str
    process: subprocess.Popen[str]

    def ask(self, command: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"command": command}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@contextmanager
def serving(shards: int, records: int) -> Iterator[Server]:
    command = [sys.executable, "-m", "tests.dynamodb.server", "--shards", str(shards), "--records", str(records)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        yield Server(said["url"], said["table"], said["stream"], process)
        process.stdin.close()


def plain(server: Server, records: int) -> float:
    """Seconds that boto3 needs by itself, with as many shards at once."""
    client = boto3.client(
        "dynamodbstreams",
        region_name="eu-test-1",
        endpoint_url=server.url,
        config=Config(max_pool_connections=_AT_ONCE),
    )
    shards = [s["ShardId"] for s in client.describe_stream(StreamArn=server.stream)["StreamDescription"]["Shards"]]

    def drain(shard: str) -> int:
        iterator: str | None = client.get_shard_iterator(
            StreamArn=server.stream, ShardId=shard, ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        seen = 0
        while iterator:
            answer = client.get_records(ShardIterator=iterator, Limit=1000)
            if not answer["Records"]:
                break
            seen += len(answer["Records"])
            iterator = answer.get("NextShardIterator")
        return seen

    started = time.perf_counter()
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        assert sum(threads.map(drain, shards)) == records
    return time.perf_counter() - started


@contextmanager
def _provider(server: Server) -> Iterator[DynamoDBProvider]:
    yield DynamoDBProvider(DynamoDBOptions(endpoint=Endpoint(region="eu-test-1", endpoint_url=server.url)))


async def gateway(server: Server) -> float:
    """Seconds to read it all through gRPC pages of the entire collection."""
    with _provider(server) as provider:
        await provider.start()
        running = await RunningGateway.start({"main": provider}, limits=Limits(), keys=(TOKEN_KEY,))
        try:
            started = time.perf_counter()
            start = position_pb2.StartPosition(beginning=position_pb2.Beginning())
            seen = 0
            while True:
                page = await running.stub.ReadChanges(
                    read_changes_pb2.ReadChangesRequest(
                        address=resource_pb2.ResourceAddress(connection="main", collection=server.table),
                        start_position=start,
                        max_page_size=5_000,
                    )
                )
                seen += len(page.events)
                if not page.more_available:
                    return time.perf_counter() - started
                start = position_pb2.StartPosition(continuation_token=page.continuation_token)
        finally:
            await running.kill()


async def idle(server: Server, seconds: float) -> int:
    """Calls that the service gets from one live stream where nothing happens."""
    with _provider(server) as provider:
        await provider.start()
        running = await RunningGateway.start({"main": provider}, limits=Limits(), keys=(TOKEN_KEY,))
        try:
            address = Address(connection="main", database="", collection=server.table)
            client = Client(running.stub, wire_address(address))
            async with client.subscribe(NOW) as stream:
                await stream.until_live()
                await asyncio.sleep(5)
                server.ask("clear")
                await asyncio.sleep(seconds)
                return sum(server.ask("counts").values())
        finally:
            await running.kill()
