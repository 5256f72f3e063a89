"""The provider that tests put in front of a server: short pauses, so that nothing waits long."""

import os
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any

import botocore.session
from botocore.loaders import create_loader

from changefeed_gateway.core.pace import Pace
from changefeed_gateway.providers.dynamodb.provider import DynamoDBOptions, DynamoDBProvider
from changefeed_gateway.providers.dynamodb.sdk import Endpoint, Retries
from tests.dynamodb.sdk import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN

PACE = Pace(shortest_pause=timedelta(milliseconds=200), longest_pause=timedelta(milliseconds=500))
LONGEST_PAUSE = timedelta(milliseconds=400)
"""Of a provider that asks seldom."""
RETRIES = Retries(
    attempts=4,
    first_pause=timedelta(milliseconds=20),
    longest_pause=timedelta(milliseconds=200),
    connect_timeout=timedelta(seconds=10),
    read_timeout=timedelta(seconds=10),
)
IMPATIENT = replace(RETRIES, read_timeout=timedelta(seconds=1))
"""For who waits for a service that does not answer."""

# The SDK reads its models of the services once for a process, not for each session: that takes longer than a test.
botocore.session.create_loader = cache(create_loader)

# Where the SDK looks first, as it does on an operator's machine.
os.environ |= {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_SESSION_TOKEN": SESSION_TOKEN,
    "AWS_EC2_METADATA_DISABLED": "true",
}


def make_provider(url: str, **options: Any) -> DynamoDBProvider:
    """A provider of the server at a URL; `options` are those of `DynamoDBOptions`."""
    chosen: dict[str, Any] = {
        "endpoint": Endpoint(region="eu-test-1", endpoint_url=url),
        "pace": PACE,
        "retries": RETRIES,
    }
    return DynamoDBProvider(DynamoDBOptions(**(chosen | options)))
