"""Calls to DynamoDB and its streams: blocking boto3 in bounded threads, with the gateway's own retries."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final, NamedTuple

import boto3
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.session import Session as BotocoreSession

from changefeed_gateway.core.cancellation import cut_short
from changefeed_gateway.core.errors import ProviderAuthenticationFailed
from changefeed_gateway.core.retries import Attempts
from changefeed_gateway.core.shared import SharedQuestion
from changefeed_gateway.providers.dynamodb.errors import (
    InvalidCall,
    translate,
    unanswered,
    unknown,
    without_text,
)

_METHODS: Final[Mapping[str, tuple[str, str]]] = {
    "DescribeTable": ("describe_table", "Table"),
    "Scan": ("scan", "Items"),
    "DescribeStream": ("describe_stream", "StreamDescription"),
    "GetShardIterator": ("get_shard_iterator", "ShardIterator"),
    "GetRecords": ("get_records", "Records"),
}
"""Each operation's method of the SDK, and the member that no whole answer lacks."""

_OVERTAKEN: Final = 60
"""Seconds by which an answer may be older than one that came before it."""

_ON_TABLES: Final = ("DescribeTable", "Scan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Which DynamoDB, and as whom. What is None is found as boto3 finds it: environment, profile, instance role."""

    region: str | None = None
    endpoint_url: str | None = None
    """Of the table API; another one than AWS's own, for tests and private links."""
    streams_endpoint_url: str | None = None
    """Of the streams API; `endpoint_url` unless given."""
    profile: str | None = None
    role_arn: str | None = None
    """A role to assume with what the profile or the environment gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries(Attempts):
    """How long a failing service is asked."""

    connect_timeout: timedelta = timedelta(seconds=5)
    read_timeout: timedelta = timedelta(seconds=10)


class Answer(NamedTuple):
    """What a call brought."""

    body: Any
    """The member of `_METHODS`."""
    whole: Mapping[str, Any]
    time: int
    """The service's clock at the answer, epoch seconds rounded down."""


class Sdk:
    """Both APIs of one region and account. Methods raise errors of the core, and those of `errors` beside them."""

    def __init__(self, endpoint: Endpoint, retries: Retries, *, max_calls: int) -> None:
        """At most `max_calls` are under way at once."""
        self.time = 0
        """The latest that the service's clock is known to have shown."""
        self.region = ""
        self._endpoint = endpoint
        self._retries = retries
        self._max_calls = max_calls
        self._threads = ThreadPoolExecutor(max_calls, thread_name_prefix="dynamodb")
        self._clients: _Clients | None = None
        self._connecting: SharedQuestion[_Clients] = SharedQuestion()
        self._closed = False

    async def call(self, operation: str, **parameters: Any) -> Answer:
        """Call one operation, several times if the service throttles or fails."""
        clients = await self._connected()
        return await self._retries.retrying()(self._call_once, clients, operation, parameters)

    async def connect(self) -> None:
        """Load the SDK and find credentials and region. Raises ProviderAuthenticationFailed."""
        await self._connected()

    def close(self) -> None:
        """Let calls under way end by themselves, and start no other."""
        self._closed = True
        self._connecting.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _call_once(self, clients: "_Clients", operation: str, parameters: Mapping[str, Any]) -> Answer:
        method, member = _METHODS[operation]
        client = clients.tables if operation in _ON_TABLES else clients.streams
        try:
            answer = await self._in_thread(partial(getattr(client, method), **parameters))
        except (ClientError, BotoCoreError) as error:
            failure, cause = translate(error, operation), without_text(error)
            if isinstance(failure, InvalidCall) and parameters.get("ShardIteratorType") != "AT_TIMESTAMP":
                failure = unknown(operation)
        else:
            return self._answer(answer, member)
        # Outside the handler: whoever logs the failure with its cause must not find the service's text there.
        raise failure from cause

    def _answer(self, answer: Mapping[str, Any], member: str) -> Answer:
        if member not in answer:
            # An answer that broke off may parse as an empty one.
            raise unanswered()
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        time = int(parsedate_to_datetime(headers["date"]).timestamp())
        # Answers overtake each other by seconds. A clock that was far ahead was wrong, and must not age every position.
        self.time = time if time < self.time - _OVERTAKEN else max(self.time, time)
        return Answer(answer[member], answer, time)

    async def _connected(self) -> "_Clients":
        if self._clients is not None:
            return self._clients
        # Who waits while credentials are looked for is told with the first, and not each after a time of its own.
        return await self._connecting.ask("connect", self._connect, join=True)

    async def _connect(self) -> "_Clients":
        try:
            clients: _Clients = await self._in_thread(self._make_clients)
        except (ClientError, BotoCoreError) as error:
            raise ProviderAuthenticationFailed(
                "the connection's region, profile or role cannot be used: check its settings and ~/.aws"
            ) from error
        self._clients, self.region = clients, clients.region
        return clients

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        if self._closed:
            raise cut_short()
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            await asyncio.wait({future})
        finally:
            # Nobody needs it any more, if it has not begun.
            future.cancel()
        if future.cancelled():
            raise cut_short()
        return future.result()

    def _make_clients(self) -> "_Clients":
        endpoint = self._endpoint
        config = Config(
            # Retries are counted here, not twice.
            retries={"mode": "standard", "total_max_attempts": 1},
            connect_timeout=self._retries.connect_timeout.total_seconds(),
            read_timeout=self._retries.read_timeout.total_seconds(),
            max_pool_connections=self._max_calls,
            user_agent_extra="changefeed-gateway",
        )
        session = _session(endpoint, config)
        streams_url = endpoint.streams_endpoint_url or endpoint.endpoint_url
        tables = session.client("dynamodb", endpoint_url=endpoint.endpoint_url, config=config)
        streams = session.client("dynamodbstreams", endpoint_url=streams_url, config=config)
        return _Clients(tables, streams, str(tables.meta.region_name))


class _Clients(NamedTuple):
    """Clients are thread-safe; the session that makes them is not (boto3 guide)."""

    tables: Any
    streams: Any
    region: str


class _Found:
    """Where a session looks for its credentials."""

    def __init__(self, credentials: DeferredRefreshableCredentials) -> None:
        self._credentials = credentials

    def load_credentials(self) -> DeferredRefreshableCredentials:
        """What botocore asks of it."""
        return self._credentials


def _session(endpoint: Endpoint, config: Config) -> boto3.Session:
    session = boto3.Session(profile_name=endpoint.profile, region_name=endpoint.region)
    if endpoint.role_arn is None:
        return session
    source = BotocoreSession(profile=endpoint.profile)
    own = source.get_credentials()
    if own is None:
        raise NoCredentialsError
    fetcher = AssumeRoleCredentialFetcher(
        # A role is assumed anew in the middle of a call, in its thread: with the same patience.
        client_creator=partial(source.create_client, region_name=session.region_name, config=config),
        source_credentials=own,
        role_arn=endpoint.role_arn,
        extra_args={"RoleSessionName": "changefeed-gateway"},
    )
    credentials = DeferredRefreshableCredentials(method="assume-role", refresh_using=fetcher.fetch_credentials)
    assumed = BotocoreSession()
    assumed.register_component("credential_provider", _Found(credentials))
    return boto3.Session(botocore_session=assumed, region_name=session.region_name)
