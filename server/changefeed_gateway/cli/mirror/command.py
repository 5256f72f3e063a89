"""`changefeed mirror`: keeps a copy of a collection in a SQLite file or a table of PostgreSQL."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from typing import Annotated, Final

import typer

from changefeed.v1.resource_pb2 import ResourceAddress
from changefeed_gateway.app import operations
from changefeed_gateway.cli.arguments import Collection, RetryFor
from changefeed_gateway.cli.calling import GatewayOptions, calls_gateway, client_of
from changefeed_gateway.cli.exits import ExitCode, Failed, exits
from changefeed_gateway.cli.mirror.copy import Copy
from changefeed_gateway.cli.mirror.following import Following, differing
from changefeed_gateway.cli.mirror.sqlite_copy import SqliteCopy
from changefeed_gateway.cli.options import Config, Json
from changefeed_gateway.cli.outages import LONGEST
from changefeed_gateway.cli.output import complain, out, print_json
from changefeed_gateway.settings import Settings, load_settings

_POSTGRES: Final = re.compile(r"postgres(ql)?://")
_SETTLING_SECONDS: Final = 30.0
"""How long what differs may take to come: the source is written to while it is compared."""


class OnExpiry(StrEnum):
    """What to do when the place of the copy has expired."""

    FAIL = "fail"
    SNAPSHOT = "snapshot"


@calls_gateway
def mirror(
    collection: Collection,
    copy: Annotated[str, typer.Argument(metavar="FILE|postgresql://...", help="Where the copy is kept.")],
    table: Annotated[str, typer.Option(help="The table of a copy in PostgreSQL.")] = "items",
    on_expiry: Annotated[
        OnExpiry, typer.Option(help="When the place has expired: fail, or begin a new snapshot into the same copy.")
    ] = OnExpiry.FAIL,
    once: Annotated[bool, typer.Option("--once", help="End when the copy is up to date.")] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare with the source, if the settings name it and it is PostgreSQL."),
    ] = False,
    retry_for: RetryFor = None,
    json: Json = False,
    config: Config = None,
    *,
    gateway: GatewayOptions,
) -> None:
    """Keep a copy of a collection: the rows that are there, then every change, until Ctrl-C; again, and it goes on.

    Rows and place are written in one transaction, so the copy ends equal to its source whatever happens in between.
    """

    def say(state: str, items: int | None, text: str) -> None:
        if json:
            print_json("copy", {"state": state} | ({} if items is None else {"items": items}))
            out.file.flush()
        else:
            complain(text)

    async def run() -> None:
        async with _copy(copy, table, collection) as kept, client_of(gateway, patience=retry_for) as client:
            following = Following(
                kept,
                collection,
                anew_on_expiry=on_expiry is OnExpiry.SNAPSHOT,
                patience=LONGEST if retry_for is None else retry_for,
                say=say,
            )
            if not verify:
                return await following.run(client, until_live=once)
            async with asyncio.TaskGroup() as group:
                task = group.create_task(following.run(client, until_live=False))
                count = await _verify(following, kept, load_settings(config), collection)
                say("verified", count, f"{count} items, and the copy has them all")
                task.cancel()

    with exits():
        asyncio.run(run())


@asynccontextmanager
async def _copy(where: str, table: str, address: ResourceAddress) -> AsyncIterator[Copy]:
    source = f"{address.connection}/{address.collection}"
    if _POSTGRES.match(where):
        async with operations.postgres_copy(where, table, source) as copy:
            yield copy
        return
    if "://" in where:
        # Not shown: it may hold a password.
        raise Failed(ExitCode.USAGE, "a copy is kept in a file or in postgresql://..., and in no other URL")
    file = SqliteCopy(where, source)
    try:
        yield file
    finally:
        await file.aclose()


async def _verify(following: Following, copy: Copy, settings: Settings, address: ResourceAddress) -> int:
    """Compare until nothing differs, or what differs has had time to come; answers how many. Raises Failed."""
    await following.live.wait()
    ends = asyncio.get_running_loop().time() + _SETTLING_SECONDS
    suspects: set[str] | None = None
    while True:
        source = await operations.source_items(settings, address.connection, address.collection)
        # What differs now and did not differ before was written in between, and may differ for that alone.
        found = differing(source, await copy.items())
        suspects = found if suspects is None else suspects & found
        if not suspects:
            return len(source)
        if asyncio.get_running_loop().time() > ends:
            for key in sorted(suspects)[:10]:
                complain(f"differs: {key}")
            raise Failed(ExitCode.UNHEALTHY, f"{len(suspects)} of {len(source)} items differ from the copy")
        following.delivered.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await following.delivered.wait()
