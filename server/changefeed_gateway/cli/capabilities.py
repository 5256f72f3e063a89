"""`changefeed capabilities`: what a collection can do."""

import asyncio

from rich.text import Text

from changefeed.v1.capabilities_pb2 import GetCapabilitiesResponse
from changefeed.v1.change_event_pb2 import ItemState
from changefeed_gateway.cli.arguments import Collection
from changefeed_gateway.cli.calling import GatewayOptions, calls_gateway, client_of
from changefeed_gateway.cli.exits import exits
from changefeed_gateway.cli.options import Json
from changefeed_gateway.cli.output import as_dict, out, print_json, print_table, short
from changefeed_gateway.settings.values import format_duration


@calls_gateway
def capabilities(collection: Collection, json: Json = False, *, gateway: GatewayOptions) -> None:
    """Say what a collection can do, and the gateway's limits."""

    async def ask() -> GetCapabilitiesResponse:
        async with client_of(gateway) as client:
            return await client.capabilities(collection)

    with exits():
        answer = asyncio.run(ask())
        if json:
            print_json("capabilities", as_dict(answer))
        else:
            _print(answer)


def _print(answer: GetCapabilitiesResponse) -> None:
    rows = [
        [capability.name, "yes" if capability.supported else "no", capability.detail]
        for capability in answer.capabilities
    ]
    print_table([answer.provider.upper(), "", ""], rows)
    facts = {
        "item state": short(ItemState, answer.item_state).lower(),
        "retention": format_duration(answer.retention.ToTimedelta()) if answer.HasField("retention") else "",
        "commit time": answer.commit_time,
        "page size": f"{answer.limits.default_page_size}, up to {answer.limits.max_page_size}",
        "longest wait": format_duration(answer.limits.max_wait.ToTimedelta()),
        "heartbeat": " to ".join(
            format_duration(bound.ToTimedelta())
            for bound in (answer.limits.min_heartbeat_interval, answer.limits.max_heartbeat_interval)
        ),
        "largest item": f"{answer.limits.max_item_bytes:,} bytes",
    }
    out.print()
    for name, value in facts.items():
        if value:
            out.print(Text.assemble((f"{name:14}", "bold"), value))
    for warning in answer.warnings:
        out.print(Text(f"note: {warning.code}: {warning.message}", "yellow"))
