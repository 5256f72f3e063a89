"""Shows on a real Spanner instance what no emulator can: run it by `make verify-spanner`, with credentials.

It makes a database with one table and its change stream, writes to it, reads it through the provider, shows how the
service words its refusals, and drops the database. It costs a few requests.
"""

import argparse
import asyncio
import os
import sys
import uuid
from datetime import UTC, datetime, timedelta

from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError
from google.cloud.spanner_admin_database_v1 import DatabaseAdminAsyncClient
from google.cloud.spanner_v1 import ExecuteSqlRequest, SpannerAsyncClient

from changefeed_gateway.core.errors import ChangeFeedError
from changefeed_gateway.core.model import (
    Address,
    AtTime,
    Beginning,
    EntireCollection,
    Now,
    Page,
    PageRead,
    PhysicalPartition,
    Scan,
    Scope,
    Start,
)
from changefeed_gateway.core.provider import Provider
from changefeed_gateway.providers.spanner.provider import SpannerOptions, SpannerProvider
from changefeed_gateway.providers.spanner.query import StreamQueries
from changefeed_gateway.providers.spanner.requests import Parameter, rows_as_of
from changefeed_gateway.providers.spanner.sdk import Endpoint, Retries, Sdk

DATABASE = f"verify-{uuid.uuid4().hex[:8]}"
STATEMENTS = (
    "CREATE TABLE Things (id INT64, exact NUMERIC, raw BYTES(MAX), ratio FLOAT64) PRIMARY KEY (id)",
    "CREATE CHANGE STREAM ThingsChanges FOR Things OPTIONS (value_capture_type = 'NEW_ROW')",
)
ROW = (
    "INSERT INTO Things (id, exact, raw, ratio) VALUES (9007199254740993, NUMERIC '99999999999999999999.999999999',"
    " b'\\x00\\xff', CAST('NaN' AS FLOAT64))"
)


async def read(provider: Provider, start: Start) -> list[Page]:
    """A page of each partition from a start, or one of rows."""
    feed = await provider.open_feed(Address(connection="verify", database="", collection="Things"))
    scopes: list[Scope] = [EntireCollection()]
    if not isinstance(start, Scan):
        scopes = [PhysicalPartition(each.partition_id) for each in await provider.list_partitions(feed, start)]
    return [
        await provider.read_page(
            feed,
            PageRead(scope=scope, start=start, max_changes=100, max_bytes=1_000_000, max_item_bytes=1_000_000),
        )
        for scope in scopes
    ]


async def write(path: str) -> None:
    """One row, by DML."""
    client = SpannerAsyncClient()
    session = (await client.create_session(database=path)).name
    begun = await client.begin_transaction(request={"session": session, "options": {"read_write": {}}})
    request = ExecuteSqlRequest(session=session, sql=ROW, seqno=1, transaction={"id": begun.id})
    await client.execute_sql(request=request)
    await client.commit(request={"session": session, "transaction_id": begun.id})


async def show_texts(endpoint: Endpoint, token: str) -> None:
    """How the service words what the emulator words in its own way."""
    sdk = Sdk(endpoint, Retries())
    queries = StreamQueries(sdk, "ThingsChanges", 1_000)
    now = await sdk.now()
    for name, partition, start in (
        ("too far in the past", None, 10**9),
        ("too far in the future", None, now + 3_600 * 10**9),
        ("before the partition", token, now - 3_600 * 10**9),
        ("a foreign token", "foreign", now),
    ):
        query = await queries.open(partition, start, None, life=30)
        try:
            await query.records(30)
        except Exception as error:
            print(f"{name}: {type(error).__name__} {vars(error) or error}")
        finally:
            query.close()
    try:
        await (await sdk.begin(rows_as_of(10**9, "Things", ["id"], None, 1), life=30, columns=1, doing="a read")).read(
            30
        )
    except ChangeFeedError as error:
        print(f"rows of a time that is gone: {type(error).__name__} {error}")
    await sdk.query("SELECT @name", {"name": Parameter("reachable")})
    await sdk.close()


async def verify(project: str, instance: str) -> None:
    """Print what was seen; raise what was refused."""
    endpoint = Endpoint(project=project, instance=instance, database=DATABASE)
    databases = DatabaseAdminAsyncClient()
    operation = await databases.create_database(
        request={
            "parent": f"projects/{project}/instances/{instance}",
            "create_statement": f"CREATE DATABASE `{DATABASE}`",
            "extra_statements": STATEMENTS,
        }
    )
    await operation.result()  # type: ignore[no-untyped-call]
    try:
        provider = SpannerProvider(SpannerOptions(endpoint=endpoint))
        before = await read(provider, Now())
        await write(endpoint.path)
        starts: dict[str, Start] = {
            "beginning": Beginning(),
            "now": Now(),
            "rows": Scan(None),
            "ten seconds ago": AtTime(datetime.now(UTC) - timedelta(seconds=10)),
        }
        for name, start in starts.items():
            pages = await read(provider, start)
            print(f"{name}: {[(change.change_type.value, change.item) for page in pages for change in page.changes]}")
        feed = await provider.open_feed(Address(connection="verify", database="", collection="Things"))
        partitions = await provider.list_partitions(feed)
        print(f"{len(partitions)} partitions; the positions of `now`: {[page.cursor.hex() for page in before]}")
        await provider.aclose()
        await show_texts(endpoint, partitions[0].partition_id)
    finally:
        await databases.drop_database(database=endpoint.path)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--project", default="")
    parser.add_argument("--instance", default="")
    options = parser.parse_args()
    os.environ.setdefault("SPANNER_DISABLE_BUILTIN_METRICS", "true")
    if not (options.project and options.instance):
        print("name an instance: make verify-spanner PROJECT=... INSTANCE=...; nothing was done")
        return 2
    try:
        asyncio.run(verify(options.project, options.instance))
    except (GoogleAPICallError, GoogleAuthError, ChangeFeedError) as error:
        print(f"refused: {type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
