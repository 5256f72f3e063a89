"""What operators ask a gateway of itself."""

from collections.abc import AsyncGenerator
from typing import Final

import grpc

from changefeed.v1 import operator_service_pb2
from changefeed_gateway.api.call import Call
from changefeed_gateway.api.identity.door import Door
from changefeed_gateway.api.interceptors import CallGuard
from changefeed_gateway.api.wire.streams import streams_asked, streams_response
from changefeed_gateway.core.model import Address
from changefeed_gateway.core.policy import Principal, Right, not_allowed
from changefeed_gateway.core.streams import Progress, Streams

SERVICE_NAME: Final = operator_service_pb2.DESCRIPTOR.services_by_name["OperatorService"].full_name


class OperatorService:
    """Handlers of `changefeed.v1.OperatorService`."""

    def __init__(self, streams: Streams, gateway: str) -> None:
        """`gateway` names this process among replicas."""
        self._streams, self._gateway = streams, gateway
        self._door: Door

    def generic_handler(self, guard: CallGuard) -> grpc.GenericRpcHandler:
        """The service's method table. Its calls have places beside those of consumers: a full gateway answers too."""
        self._door = guard.door
        request = operator_service_pb2.ListStreamsRequest.FromString
        table = {"ListStreams": guard.bystander("ListStreams", request, self.list_streams)}
        return grpc.method_handlers_generic_handler(SERVICE_NAME, table)

    async def list_streams(self, message: operator_service_pb2.ListStreamsRequest, call: Call) -> AsyncGenerator[bytes]:
        """Answer a page of the open streams of the collections that the caller may operate."""
        if not self._door.policy.has(call.principal, Right.OPERATE):
            raise not_allowed()
        asked = streams_asked(message)
        wanted = [
            each
            for each in self._streams
            if each.number > asked.after and asked.wanted(each) and self._may_see(call.principal, each)
        ]
        page = wanted[: asked.size]
        yield streams_response(self._gateway, page, more=len(wanted) > len(page)).SerializeToString()

    def _may_see(self, principal: Principal, stream: Progress) -> bool:
        # One that is being opened has no collection yet: for those alone who may see all.
        address = stream.feed.address if stream.feed else Address(connection="", database="", collection="")
        return self._door.may(principal, Right.OPERATE, address)
