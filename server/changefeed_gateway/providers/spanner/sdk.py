"""Calls to one Spanner database: the raw streaming call of Google's client, with the gateway's own retries.

The client's own iterator holds rows back until a message carries a resume token, and asks an endpoint that is away
for ever and without pause; the raw call does neither. Rows are joined here, and a query that broke is made anew from
the position that was reached.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

# Google's client would otherwise send metrics of its own to Cloud Monitoring; who has chosen keeps the choice.
os.environ.setdefault("SPANNER_DISABLE_BUILTIN_METRICS", "true")

import google.auth
import grpc
from google.api_core import grpc_helpers_async
from google.api_core.exceptions import GoogleAPICallError
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import GoogleAuthError
from google.cloud.spanner_v1.services.spanner import SpannerAsyncClient
from google.cloud.spanner_v1.services.spanner.transports import SpannerGrpcAsyncIOTransport

from changefeed_gateway.core.cancellation import cut_short
from changefeed_gateway.core.errors import ProviderAuthenticationFailed, Reason, TransientFailure
from changefeed_gateway.core.refusals import ForTheCaller
from changefeed_gateway.core.retries import Attempts
from changefeed_gateway.core.shared import SharedQuestion
from changefeed_gateway.providers.spanner import instants
from changefeed_gateway.providers.spanner.errors import SessionGone, translate, unanswered, unknown, without_text
from changefeed_gateway.providers.spanner.requests import Ask, Parameter, statement
from changefeed_gateway.providers.spanner.rows import RowJoiner, Value

_SCOPES: Final = ("https://www.googleapis.com/auth/spanner.data",)
_STREAMS_A_CHANNEL: Final = 80
"""Open queries; Google's front ends allow 100 calls on a connection, and a call beyond would wait for another's end."""
_SESSIONS_TRIED: Final = 2
_NOW: Final = "SELECT 1"
_DIALECT: Final = "SELECT option_value FROM information_schema.database_options WHERE option_name = 'database_dialect'"
_SHORT: Final = 60.0
"""Seconds that a query may take that is not one of a change stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Which database, and as whom."""

    project: str
    instance: str
    database: str
    credentials_file: Path | None = None
    """Of a service account, or what `gcloud` writes; found as Google's libraries find them unless given."""
    emulator_host: str | None = None
    """host:port of an emulator, which is asked in plaintext and without credentials."""

    @property
    def path(self) -> str:
        """The database's full name."""
        return f"projects/{self.project}/instances/{self.instance}/databases/{self.database}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries(Attempts):
    """How long a failing service is asked."""

    answer_timeout: timedelta = timedelta(seconds=15)
    """How long a query may say nothing, beyond its heartbeat."""

    async def pause(self, failures: int) -> None:
        """Wait before another attempt, after so many failures in a row."""
        longest, first = self.longest_pause.total_seconds(), self.first_pause.total_seconds()
        await asyncio.sleep(min(longest, first * 2.0 ** min(failures - 1, 32)))


class Found(NamedTuple):
    """What a short query brought."""

    rows: Sequence[Sequence[Value]]
    read_time: int
    """Every commit up to then is in it, and none after; nanoseconds of Spanner's clock."""


class RowStream:
    """A query under way."""

    def __init__(self, call: Any, columns: int, channel: "_Channel", doing: str) -> None:
        self.read_time = 0
        self._call, self._channel, self._doing = call, channel, doing
        self._joiner = RowJoiner(columns)
        self._closed = False

    async def read(self, patience: float) -> Sequence[Sequence[Value]] | None:
        """The rows of the next message, maybe none; None at the end. `patience`: seconds.

        Raises errors of the core and `ForTheCaller`, with which the query is over.
        """
        failure: Exception
        try:
            async with asyncio.timeout(patience):
                message = await self._call.read()
            if message is grpc.aio.EOF:
                self.close()
                if not self._joiner.complete:
                    raise unanswered()
                return None
            return self._rows(message)
        except TimeoutError:
            failure, cause = _timed_out(), None
        except (GoogleAPICallError, GoogleAuthError) as error:
            failure, cause = translate(error, self._doing), without_text(error)
        except ValueError as error:
            failure, cause = unknown(self._doing), without_text(error)
        finally:
            if not self._closed and (self._call.done()):
                self.close()
        self.close()
        # Outside the handler: whoever logs the failure with its cause must not find the service's text there.
        raise failure from cause

    def _rows(self, message: Any) -> Sequence[Sequence[Value]]:
        partial = message._pb
        if partial.HasField("metadata") and partial.metadata.HasField("transaction"):
            stamp = partial.metadata.transaction.read_timestamp
            self.read_time = stamp.seconds * instants.SECOND + stamp.nanos
        return list(self._joiner.take(partial.values, chunked=partial.chunked_value))

    def close(self) -> None:
        """End the query; idempotent."""
        if not self._closed:
            self._closed = True
            self._channel.open -= 1
            self._call.cancel()


class Sdk:
    """One database. Methods raise errors of the core, and those of `errors` beside them."""

    def __init__(self, endpoint: Endpoint, retries: Retries) -> None:
        self.endpoint = endpoint
        self.retries = retries
        self.postgresql = False
        """The database's dialect, once connected."""
        self.calls = 0
        """Queries so far."""
        self._credentials: Credentials | None = None
        self._channels: list[_Channel] = []
        self._session = ""
        self._connected = False
        self._closed = False
        self._shared: SharedQuestion[Any] = SharedQuestion(at_once=3, foreseen=ForTheCaller)
        """Of "now", "connect" and "session" each may need the next, so that all three can be under way."""

    async def find_credentials(self) -> None:
        """Load the credentials, so that the first call need not. Raises ProviderAuthenticationFailed."""
        if self._credentials is None:
            self._credentials = await _find_credentials(self.endpoint)

    async def connect(self) -> None:
        """Find credentials, make a session and ask for the dialect; once. Raises ProviderAuthenticationFailed."""
        if not self._connected:
            # Who waits while the service is away is told with the first, and not each after a time of its own.
            await self._shared.ask("connect", self._connect, join=True)

    async def _connect(self) -> None:
        await self.find_credentials()
        found = await self._query(_DIALECT, {}, "information_schema")
        self.postgresql = bool(found.rows) and found.rows[0][0].string_value == "POSTGRESQL"
        self._connected = True

    async def query(
        self, sql: str, parameters: Mapping[str, Parameter] = {}, *, columns: int = 1, doing: str = "a query"
    ) -> Found:
        """Run a short query, several times if the service throttles or fails."""
        await self.connect()
        return await self._query(sql, parameters, doing, columns=columns)

    async def now(self) -> int:
        """The time on Spanner's clock, before which everything committed so far lies, and nothing that follows."""
        found: int = await self._shared.ask("now", self._now)
        return found

    async def _now(self) -> int:
        return (await self.query(_NOW, doing="a strong read")).read_time

    async def open(
        self, sql: str, parameters: Mapping[str, Parameter], *, life: float, columns: int = 1, doing: str
    ) -> RowStream:
        """Begin a query that is read while it lasts; `life`: seconds after which it ends, whatever it does."""
        return await self.begin(statement(sql, parameters), life=life, columns=columns, doing=doing)

    async def begin(self, ask: Ask, *, life: float, columns: int, doing: str) -> RowStream:
        """Begin any request whose answer is rows, as `open` does."""
        await self.connect()
        return await self._open(ask, life=life, columns=columns, doing=doing)

    async def close(self) -> None:
        """End everything; idempotent. Whoever waits is told so."""
        self._closed = True
        await self._shared.aclose()
        channels, self._channels = self._channels, []
        for channel in channels:
            await channel.client.transport.close()  # type: ignore[no-untyped-call]

    # --- Inside

    async def _query(self, sql: str, parameters: Mapping[str, Parameter], doing: str, *, columns: int = 1) -> Found:
        return await self.retries.retrying()(self._query_once, sql, parameters, doing, columns)

    async def _query_once(self, sql: str, parameters: Mapping[str, Parameter], doing: str, columns: int) -> Found:
        stream = await self._open(statement(sql, parameters), life=_SHORT, columns=columns, doing=doing)
        rows: list[Sequence[Value]] = []
        try:
            while (more := await stream.read(self.retries.answer_timeout.total_seconds())) is not None:
                rows += more
        finally:
            stream.close()
        return Found(rows, stream.read_time)

    async def _open(self, ask: Ask, *, life: float, columns: int, doing: str) -> RowStream:
        for attempt in range(_SESSIONS_TRIED):
            session = await self._find_session()
            try:
                return await self._start(session, ask, life, columns, doing)
            except SessionGone as error:
                if self._session == session:
                    self._session = ""
                if attempt + 1 == _SESSIONS_TRIED:
                    raise unanswered() from error
        raise AssertionError("unreachable: the last attempt raises")

    async def _start(self, session: str, ask: Ask, life: float, columns: int, doing: str) -> RowStream:
        channel = self._channel()
        self.calls += 1
        # Before the answer: many that begin at once would all find the same channel free.
        channel.open += 1
        try:
            call = await self._ask(ask(channel.client, session, timeout=life, **self._routed()), doing)
        except BaseException:
            channel.open -= 1
            raise
        return RowStream(call, columns, channel, doing)

    async def _find_session(self) -> str:
        if self._session:
            return self._session
        made: str = await self._shared.ask("session", self._make_session, join=True)
        return made

    async def _make_session(self) -> str:
        request = {"database": self.endpoint.path, "session": {"multiplexed": True}}
        channel = self._channel()
        timeout = self.retries.answer_timeout.total_seconds()
        making = channel.client.create_session(request=request, retry=None, timeout=timeout, **self._routed())
        self._session = str((await self._ask(making, "spanner.sessions.create")).name)
        return self._session

    async def _ask(self, asking: Any, doing: str) -> Any:
        failure: Exception
        try:
            async with asyncio.timeout(self.retries.answer_timeout.total_seconds()):
                return await asking
        except TimeoutError:
            failure, cause = _timed_out(), None
        except (GoogleAPICallError, GoogleAuthError) as error:
            failure, cause = translate(error, doing), without_text(error)
        raise failure from cause

    def _routed(self) -> dict[str, Any]:
        return {"metadata": (("google-cloud-resource-prefix", self.endpoint.path),)}

    def _channel(self) -> "_Channel":
        if self._closed:
            raise cut_short()
        channel = min(self._channels, key=lambda known: known.open, default=None)
        if channel is None or channel.open >= _STREAMS_A_CHANNEL:
            channel = _Channel(_client(self.endpoint, self._credentials))
            self._channels.append(channel)
        return channel


class _Channel:
    """A connection of its own, and how many queries are open on it."""

    def __init__(self, client: SpannerAsyncClient) -> None:
        self.client = client
        self.open = 0


def _client(endpoint: Endpoint, credentials: Credentials | None) -> SpannerAsyncClient:
    def connect(host: str, **options: Any) -> grpc.aio.Channel:
        # Without a pool of its own it would share another channel's connection, and its limit.
        chosen = [*options.pop("options", ()), ("grpc.use_local_subchannel_pool", 1)]
        if endpoint.emulator_host is not None:
            return grpc.aio.insecure_channel(endpoint.emulator_host, options=chosen)
        channel: grpc.aio.Channel = grpc_helpers_async.create_channel(host, options=chosen, **options)
        return channel

    return SpannerAsyncClient(transport=SpannerGrpcAsyncIOTransport(credentials=credentials, channel=connect))


async def _find_credentials(endpoint: Endpoint) -> Credentials:
    if endpoint.emulator_host is not None:
        return AnonymousCredentials()  # type: ignore[no-untyped-call]
    try:
        return await asyncio.to_thread(_load_credentials, endpoint.credentials_file)
    except (GoogleAuthError, OSError, ValueError) as error:
        failure, cause = _no_credentials(), without_text(error)
    raise failure from cause


def _load_credentials(file: Path | None) -> Credentials:
    found: Credentials
    if file is None:
        found, _ = google.auth.default(scopes=_SCOPES)
    else:
        found, _ = google.auth.load_credentials_from_file(str(file), scopes=_SCOPES)  # type: ignore[no-untyped-call]
    return found


def _no_credentials() -> ProviderAuthenticationFailed:
    return ProviderAuthenticationFailed(
        "the connection's credentials cannot be used: check credentials_file, or log in with gcloud"
    )


def _timed_out() -> TransientFailure:
    return TransientFailure(
        "Spanner took too long: try again", reason=Reason.PROVIDER_TIMEOUT, retry_after=timedelta(seconds=1)
    )
