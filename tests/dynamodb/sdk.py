"""Unmodified boto3 clients with credentials that a leak would be recognised by."""

from functools import cache

import boto3
from botocore.config import Config
from types_boto3_dynamodb import DynamoDBClient
from types_boto3_dynamodbstreams import DynamoDBStreamsClient

ACCESS_KEY = "AKIAFAKEDONOTLEAK000"
SECRET_KEY = "fake-secret-do-not-leak-5f1c0e7b"
SESSION_TOKEN = "fake-session-do-not-leak-9a77"

ONCE = Config(retries={"mode": "standard", "total_max_attempts": 1}, connect_timeout=5, read_timeout=5)
"""No retries: a test sees what the server said."""


@cache
def session() -> boto3.Session:
    """A session with credentials of its own; kept, because it loads the models once."""
    return boto3.Session(
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        aws_session_token=SESSION_TOKEN,
        region_name="eu-test-1",
    )


def table_client(url: str) -> DynamoDBClient:
    """A client of the table API."""
    return session().client("dynamodb", endpoint_url=url, config=ONCE)


def stream_client(url: str) -> DynamoDBStreamsClient:
    """A client of the stream API."""
    return session().client("dynamodbstreams", endpoint_url=url, config=ONCE)
