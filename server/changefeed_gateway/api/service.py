"""The six RPCs: decode, ask the core, encode."""

from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

import grpc

from changefeed.v1 import (
    capabilities_pb2,
    change_feed_service_pb2,
    partition_pb2,
    read_changes_pb2,
    subscribe_pb2,
    token_pb2,
)
from changefeed_gateway.api.admission import host_of
from changefeed_gateway.api.call import Call
from changefeed_gateway.api.interceptors import CallGuard
from changefeed_gateway.api.status import to_status
from changefeed_gateway.api.wire import decode, encode
from changefeed_gateway.core.answer import Closing
from changefeed_gateway.core.router import Router

SERVICE_NAME: Final = change_feed_service_pb2.DESCRIPTOR.services_by_name["ChangeFeedService"].full_name


class ChangeFeedService:
    """Handlers of `changefeed.v1.ChangeFeedService`; each takes a parsed request and answers in bytes."""

    def __init__(self, router: Router, guard: CallGuard) -> None:
        self._router = router
        self._guard = guard

    def generic_handler(self) -> grpc.GenericRpcHandler:
        """The service's method table.

        The only one to register: the generated `add_ChangeFeedServiceServicer_to_server` would take precedence over
        it and serialise every answer again.
        """
        unary, stream = self._guard.unary, self._guard.stream
        table: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "ReadChanges": unary("ReadChanges", read_changes_pb2.ReadChangesRequest.FromString, self.read_changes),
            "ListPhysicalPartitions": unary(
                "ListPhysicalPartitions",
                partition_pb2.ListPhysicalPartitionsRequest.FromString,
                self.list_physical_partitions,
            ),
            "Subscribe": stream("Subscribe", subscribe_pb2.SubscribeRequest.FromString, self.subscribe),
            "GetCapabilities": unary(
                "GetCapabilities", capabilities_pb2.GetCapabilitiesRequest.FromString, self.get_capabilities
            ),
            "ResolveStartPosition": unary(
                "ResolveStartPosition",
                token_pb2.ResolveStartPositionRequest.FromString,
                self.resolve_start_position,
            ),
            "InspectContinuationToken": unary(
                "InspectContinuationToken",
                token_pb2.InspectContinuationTokenRequest.FromString,
                self.inspect_continuation_token,
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE_NAME, table)

    async def read_changes(self, message: read_changes_pb2.ReadChangesRequest, call: Call) -> bytes:
        """Answer one page."""
        request = decode.read_request(message, now=_now(), time_remaining=call.time_remaining)
        answer = await self._router.read_changes(request)
        call.facts["events"] = len(answer.records)
        circumstances = encode.Circumstances(operation=call.method, request_id=call.request_id, duration=call.elapsed)
        response = encode.read_changes_response(answer, circumstances)
        observation = self._router.observation
        delivered = observation.delivered_of(observation.feed(answer.feed.address), call.method)
        delivered.count(len(answer.records), len(response))
        return response

    async def list_physical_partitions(self, message: partition_pb2.ListPhysicalPartitionsRequest, call: Call) -> bytes:
        """Answer a page of the partitions."""
        address = decode.address(message.address)
        size, after = decode.partition_page(message)
        partitions = await self._router.list_partitions(address)
        low = 0
        if after is not None:
            ids = [partition.partition_id for partition in partitions]
            if after not in ids:
                raise decode.unknown_page_token()
            low = ids.index(after) + 1
        page = partitions[low : low + size]
        more = low + size < len(partitions)
        return encode.partitions_response(page, next_after=page[-1].partition_id if more else None).SerializeToString()

    async def subscribe(self, message: subscribe_pb2.SubscribeRequest, call: Call) -> None:
        """Send a stream's messages until it ends.

        Written with `Call.write`, because a generator cannot bound how long its `yield` waits for a slow consumer.
        """
        request = decode.subscribe_request(message, now=_now())
        within = self._router.limits.write_timeout
        sequence = 0
        with self._router.streams.opening(call.request_id, host_of(call.peer), call.caller) as progress:
            progress.writing_since = call.writing_since
            subscription = self._router.subscribe(request, end_write=call.end_write, progress=progress)
            async with aclosing(subscription) as items:
                async for item in items:
                    sequence += 1
                    response = encode.subscribe_response(item, sequence=sequence, request_id=call.request_id)
                    call.account.check_bytes()
                    await call.write(response, within=within)
                    progress.took(item, len(response))
                    call.facts["messages"] = sequence
                    if isinstance(item, Closing):
                        call.facts["closing"] = item.reason.value
                    del item, response  # they would be held for as long as nothing follows

    async def get_capabilities(self, message: capabilities_pb2.GetCapabilitiesRequest, call: Call) -> bytes:
        """Answer what a collection can do."""
        feed = await self._router.describe_feed(decode.address(message.address))
        return encode.capabilities_response(feed, self._router.limits).SerializeToString()

    async def resolve_start_position(self, message: token_pb2.ResolveStartPositionRequest, call: Call) -> bytes:
        """Answer a start position's token."""
        address, scope = decode.address(message.address), decode.scope(message)
        resolved = await self._router.resolve_start(address, scope, decode.start(message, now=_now()))
        return encode.resolved_start_response(resolved).SerializeToString()

    async def inspect_continuation_token(self, message: token_pb2.InspectContinuationTokenRequest, call: Call) -> bytes:
        """Answer what a token is."""
        address = decode.address(message.address)
        token = decode.token("continuation_token", message.continuation_token)
        report = await self._router.inspect_token(address, token)
        problem = None
        if report.problem is not None:
            self._guard.judge(call, report.problem)
            problem = to_status(report.problem, request_id=call.request_id)
        return encode.token_report_response(report, problem).SerializeToString()


def _now() -> datetime:
    return datetime.now(UTC)
