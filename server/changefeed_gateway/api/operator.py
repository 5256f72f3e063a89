"""What operators ask a gateway of itself."""

from collections.abc import AsyncGenerator
from typing import Final, Protocol

import grpc

from changefeed.v1 import operator_service_pb2
from changefeed_gateway.api.call import Call
from changefeed_gateway.api.identity.door import Door
from changefeed_gateway.api.interceptors import CallGuard
from changefeed_gateway.api.wire.streams import (
    StreamsAsked,
    foreign_page_token,
    page_token,
    streams_asked,
    streams_response,
)
from changefeed_gateway.core.model import Address, EntireCollection
from changefeed_gateway.core.policy import Principal, Right, not_allowed
from changefeed_gateway.core.streams import Progress, Streams

SERVICE_NAME: Final = operator_service_pb2.DESCRIPTOR.services_by_name["OperatorService"].full_name


class Siblings(Protocol):
    """The processes that listen on the same port, numbered from 1."""

    @property
    def own(self) -> int:
        """The number of this one."""
        ...

    @property
    def count(self) -> int:
        """How many there are, this one included."""
        ...

    async def streams(self, number: int, principal: Principal, request: bytes) -> bytes | None:
        """What another one answers this caller to a ListStreamsRequest; None when it does not answer."""
        ...


class OperatorService:
    """Handlers of `changefeed.v1.OperatorService`."""

    def __init__(self, streams: Streams, gateway: str, siblings: Siblings | None = None) -> None:
        """`gateway` names this process among replicas; `siblings` are those behind the same port."""
        self._streams, self._gateway, self._siblings = streams, gateway, siblings
        self._door: Door

    def generic_handler(self, guard: CallGuard) -> grpc.GenericRpcHandler:
        """The service's method table. Its calls have places beside those of consumers: a full gateway answers too."""
        self._door = guard.door
        request = operator_service_pb2.ListStreamsRequest.FromString
        table = {"ListStreams": guard.bystander("ListStreams", request, self.list_streams)}
        return grpc.method_handlers_generic_handler(SERVICE_NAME, table)

    async def list_streams(self, message: operator_service_pb2.ListStreamsRequest, call: Call) -> AsyncGenerator[bytes]:
        """Answer a page of the open streams of the collections that the caller may operate."""
        yield await self.page(call.principal, message)

    async def page(self, principal: Principal, message: operator_service_pb2.ListStreamsRequest) -> bytes:
        """Each page is of one process. Raises AuthorizationFailed, InvalidRequest."""
        if not self._door.policy.has(principal, Right.OPERATE):
            raise not_allowed()
        asked = streams_asked(message)
        siblings = self._siblings
        if siblings is None:
            if asked.worker:
                raise foreign_page_token()
            return self._own_page(principal, asked, own=0, after_all="")
        worker = asked.worker or 1
        if worker > siblings.count:
            raise foreign_page_token()
        following = page_token(worker + 1, 0) if worker < siblings.count else ""
        if worker == siblings.own:
            return self._own_page(principal, asked, own=worker, after_all=following)
        message.page_token = page_token(worker, asked.after)
        answer = await siblings.streams(worker, principal, message.SerializeToString())
        # One that has ended has no streams; one that is stuck hides no other's.
        return answer or streams_response("", [], next_page_token=following).SerializeToString()

    def _own_page(self, principal: Principal, asked: StreamsAsked, *, own: int, after_all: str) -> bytes:
        wanted = [
            each
            for each in self._streams
            if each.number > asked.after and asked.wanted(each) and self._may_see(principal, each)
        ]
        page = wanted[: asked.size]
        token = page_token(own, page[-1].number) if len(wanted) > len(page) else after_all
        return streams_response(self._gateway, page, next_page_token=token).SerializeToString()

    def _may_see(self, principal: Principal, stream: Progress) -> bool:
        # One that is being opened has no collection yet: for those alone who may see all.
        address = stream.feed.address if stream.feed else Address(connection="", database="", collection="")
        return self._door.may(principal, Right.OPERATE, address, stream.scope or EntireCollection())
