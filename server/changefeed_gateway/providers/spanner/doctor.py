"""Examines the tables of a connection: is there a change stream, what does it carry, and may the gateway read it?"""

from collections.abc import AsyncIterator
from typing import Final

from changefeed_gateway.core.errors import ChangeFeedError, FeedNotProvisioned, NotFound, ProviderAuthorizationFailed
from changefeed_gateway.core.finding import Finding
from changefeed_gateway.core.provider import Examination
from changefeed_gateway.core.refusals import ForTheCaller
from changefeed_gateway.providers.spanner.partitions import Topology
from changefeed_gateway.providers.spanner.provider import SpannerOptions
from changefeed_gateway.providers.spanner.query import StreamQueries
from changefeed_gateway.providers.spanner.reading import PartitionReader
from changefeed_gateway.providers.spanner.sdk import Sdk
from changefeed_gateway.providers.spanner.table import Stream, find_stream, omissions

_ALLOW: Final = (
    "grant roles/spanner.databaseReader on the database, or a role with spanner.databases.select and, for snapshots,"
    " spanner.databases.read"
)


async def examine(options: SpannerOptions) -> Examination:
    """Look at credentials and database, then at each table of the settings."""
    sdk = Sdk(options.endpoint, options.retries)
    try:
        try:
            await sdk.find_credentials()
        except ChangeFeedError as error:
            yield _wrong("credentials", error, "give credentials_file, or log in with gcloud")
            return
        try:
            await sdk.connect()
        except ChangeFeedError as error:
            yield _wrong("database", error, _remedy(error, "check project, instance, database and the network"))
            return
        dialect = "PostgreSQL" if sdk.postgresql else "GoogleSQL"
        yield Finding(subject="database", healthy=True, detail=f"{options.endpoint.path}, {dialect}")
        if not options.tables:
            detail = "none is named: doctor looks at those under tables"
            yield Finding(subject="tables", healthy=True, detail=detail)
        for table, stream in sorted(options.tables.items()):
            async for finding in _examine(sdk, table, stream, options):
                yield finding
    finally:
        await sdk.close()


async def _examine(sdk: Sdk, table: str, chosen: str | None, options: SpannerOptions) -> AsyncIterator[Finding]:
    try:
        (stream, _), _ = await find_stream(sdk, table, chosen)
    except NotFound as error:
        yield _wrong(f"table {table}", error, "check its name and the database")
    except FeedNotProvisioned as error:
        yield _wrong(f"change stream of {table}", error, "make it or name it: changes made before are not in it")
    except ChangeFeedError as error:
        yield _wrong(f"table {table}", error, _remedy(error, "see the message"))
    else:
        yield _items(table, stream)
        yield _completeness(table, stream)
        yield await _readable(sdk, table, stream, options)


def _items(table: str, stream: Stream) -> Finding:
    return Finding(
        subject=f"items of {table}",
        healthy=not stream.missing_items,
        detail=stream.missing_items or f"the value capture type is {stream.capture}",
        remedy=""
        if not stream.missing_items
        else "changes carry keys only; for items ALTER CHANGE STREAM "
        f"{stream.name} SET OPTIONS (value_capture_type = 'NEW_ROW'), and watch the whole table",
    )


def _completeness(table: str, stream: Stream) -> Finding:
    left_out = omissions(stream)
    return Finding(
        subject=f"changes of {table}",
        healthy=not left_out,
        detail="; ".join(left_out) or f"all of them, for {stream.retention}",
        remedy=""
        if not left_out
        else "consumers that mirror the table miss these: alter the change stream, or know it",
    )


async def _readable(sdk: Sdk, table: str, stream: Stream, options: SpannerOptions) -> Finding:
    """Make each query that a reader makes, once."""
    subject = f"change stream of {table}"
    queries = StreamQueries(sdk, stream.name, int(options.pace.heartbeat.total_seconds() * 1_000))

    def make_reader(token: str) -> PartitionReader:
        return PartitionReader(queries, stream.table, token, options.pace)

    try:
        census = await Topology(queries, stream.retention, make_reader).at_now()
        await make_reader(census.tokens[0]).probe(census.time)
    except ChangeFeedError as error:
        return _wrong(subject, error, _remedy(error, "see the message"))
    except ForTheCaller:
        return Finding(subject=subject, healthy=False, detail="it changed meanwhile", remedy="run doctor again")
    return Finding(subject=subject, healthy=True, detail=f"{stream.name}, {len(census.tokens)} partitions, readable")


def _remedy(error: ChangeFeedError, otherwise: str) -> str:
    return _ALLOW if isinstance(error, ProviderAuthorizationFailed) else otherwise


def _wrong(subject: str, error: ChangeFeedError, remedy: str) -> Finding:
    return Finding(subject=subject, healthy=False, detail=str(error), remedy=remedy)
