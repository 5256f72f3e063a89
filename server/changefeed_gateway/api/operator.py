"""What operators ask a gateway of itself."""

from collections.abc import AsyncGenerator
from typing import Final

import grpc

from changefeed.v1 import operator_service_pb2
from changefeed_gateway.api.call import Call
from changefeed_gateway.api.interceptors import CallGuard
from changefeed_gateway.api.wire.streams import streams_asked, streams_response
from changefeed_gateway.core.streams import Streams

SERVICE_NAME: Final = operator_service_pb2.DESCRIPTOR.services_by_name["OperatorService"].full_name


class OperatorService:
    """Handlers of `changefeed.v1.OperatorService`."""

    def __init__(self, streams: Streams, gateway: str) -> None:
        """`gateway` names this process among replicas."""
        self._streams, self._gateway = streams, gateway

    def generic_handler(self, guard: CallGuard) -> grpc.GenericRpcHandler:
        """The service's method table. Its calls have places beside those of consumers: a full gateway answers too."""
        request = operator_service_pb2.ListStreamsRequest.FromString
        table = {"ListStreams": guard.bystander("ListStreams", request, self.list_streams)}
        return grpc.method_handlers_generic_handler(SERVICE_NAME, table)

    async def list_streams(self, message: operator_service_pb2.ListStreamsRequest, call: Call) -> AsyncGenerator[bytes]:
        """Answer a page of the open streams."""
        asked = streams_asked(message)
        wanted = [each for each in self._streams if each.number > asked.after and asked.wanted(each)]
        page = wanted[: asked.size]
        yield streams_response(self._gateway, page, more=len(wanted) > len(page)).SerializeToString()
