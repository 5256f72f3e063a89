"""`changefeed streams`: who reads what, since when, how far behind, how fast."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

from changefeed.v1.operator_service_pb2 import ListStreamsResponse, StreamScope, StreamStatus
from changefeed.v1.resource_pb2 import ResourceAddress
from changefeed.v1.subscribe_pb2 import SubscriptionState
from changefeed_gateway.cli.arguments import address_of, spelled
from changefeed_gateway.cli.calling import GatewayOptions, calls_gateway, client_of
from changefeed_gateway.cli.exits import ExitCode, Failed, exit_code, exits
from changefeed_gateway.cli.options import Json
from changefeed_gateway.cli.output import as_dict, complain, print_json, print_table, short
from changefeed_gateway.cli.replicas import Replica, failures, replicas_of

_COLUMNS: Final = [
    "GATEWAY", "STREAM", "WHO", "READS", "STATE", "SINCE", "EVENTS", "A SECOND", "LAG", "BEHIND", "BLOCKED",
]  # fmt: skip

Wanted = Annotated[
    ResourceAddress | None,
    typer.Argument(metavar="[CONNECTION/COLLECTION]", parser=address_of, help="Only its streams."),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="HOST:PORT",
        help="The gateway: every replica that its name leads to, or several targets."
        " Else CHANGEFEED_TARGET, else listen of the settings.",
    ),
]


@calls_gateway
def streams(collection: Wanted = None, json: Json = False, target: Targets = None, *, gateway: GatewayOptions) -> None:
    """List the open streams of all replicas: who reads what, since when, how far behind, how fast."""

    async def collect(replica: Replica) -> list[ListStreamsResponse]:
        async with client_of(gateway, replica.target, options=replica.options) as client:
            address = collection or ResourceAddress()
            pages = client.streams(connection=address.connection, collection=address.collection)
            return [page async for page in pages]

    async def collect_all() -> dict[Replica, list[ListStreamsResponse] | BaseException]:
        targets: list[str | None] = [*target] if target else [None]
        found = [replica for one in targets for replica in await replicas_of(replace(gateway, target=one).found())]
        replicas = dict.fromkeys(found)
        return dict(zip(replicas, await asyncio.gather(*map(collect, replicas), return_exceptions=True), strict=True))

    with exits():
        answers = asyncio.run(collect_all())
        _show(_each_once(answers.values()), json=json)
        # The others' streams are worth seeing when one gateway is away; each that is, is told.
        _tell(failures(answers), asked=len(answers))


def _each_once(answers: Iterable[list[ListStreamsResponse] | BaseException]) -> list[tuple[str, StreamStatus]]:
    """Of all processes: two addresses may lead to one, and two may have one name, on machines made of one image."""
    found: dict[tuple[str, int, int], tuple[str, StreamStatus]] = {}
    for pages in answers:
        for page in () if isinstance(pages, BaseException) else pages:
            for stream in page.streams:
                which = (page.gateway, stream.stream_id, stream.start_time.ToNanoseconds())
                found.setdefault(which, (page.gateway, stream))
    return list(found.values())


def _tell(failed: dict[Replica, BaseException], *, asked: int) -> None:
    """Say what failed, each with its address, and end with the code of the first."""
    errors = [*failed.values()]
    if not errors:
        return
    unforeseen = [error for error in errors if exit_code(error) is None]
    if unforeseen or asked == 1:
        raise (unforeseen or errors)[0]
    texts = [
        str(error) if isinstance(error, Failed) else f"{replica.target.address}: {error}"
        for replica, error in failed.items()
    ]
    for text in dict.fromkeys(texts):
        complain(text)
    raise Failed(exit_code(errors[0]) or ExitCode.UNEXPECTED)


def _show(found: list[tuple[str, StreamStatus]], *, json: bool) -> None:
    if json:
        for gateway, stream in found:
            print_json("stream", {"gateway": gateway, **as_dict(stream)})
    else:
        now = datetime.now(UTC)
        print_table(_COLUMNS, [_row(name, stream, now) for name, stream in found])


def _row(gateway: str, stream: StreamStatus, now: datetime) -> list[str]:
    return [
        gateway,
        str(stream.stream_id),
        stream.principal or stream.host,
        _reads(stream),
        "opening" if not stream.state else short(SubscriptionState, stream.state).lower().replace("_", " "),
        _time(now - stream.start_time.ToDatetime(UTC)),
        str(stream.events),
        f"{stream.events_per_second:.1f}",
        _time(stream.lag.ToTimedelta()) if stream.HasField("lag") else "",
        str(stream.changes_behind) if stream.HasField("changes_behind") else "",
        _time(stream.blocked.ToTimedelta()) if stream.HasField("blocked") else "",
    ]


def _reads(stream: StreamStatus) -> str:
    if not stream.HasField("address"):
        return ""
    address = spelled(stream.address.connection, stream.address.collection)
    match stream.scope:
        case StreamScope.STREAM_SCOPE_PHYSICAL_PARTITION:
            return f"{address} (partition {stream.physical_partition_id})"
        case StreamScope.STREAM_SCOPE_LOGICAL_PARTITION:
            return f"{address} (a logical partition)"
        case _:
            return address


def _time(length: timedelta) -> str:
    """For people: two places, the larger ones."""
    seconds = max(length.total_seconds(), 0.0)
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    days, hours, minutes = whole // 86_400, whole // 3_600 % 24, whole // 60 % 60
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{whole % 60}s" if minutes else f"{whole}s"
