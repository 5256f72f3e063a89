"""Reflection: what tools such as grpcurl and ghz ask for, methods and comments included."""

from collections.abc import AsyncGenerator, AsyncIterator
from importlib.resources import files
from typing import Any, Final

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_reflection.v1alpha import reflection, reflection_pb2

from changefeed_gateway.api.interceptors import CallGuard

_NAMES: Final = (reflection.SERVICE_NAME, "grpc.reflection.v1.ServerReflection")
"""The messages are the same, and grpcio knows only the older name."""


_Untyped: Any = reflection.aio.ReflectionServicer


class _Servicer(_Untyped):  # type: ignore[misc]
    """grpcio's, which knows neither methods nor comments."""

    def __init__(self, services: tuple[str, ...]) -> None:
        super().__init__(services)
        described = files("changefeed").joinpath("v1/descriptors.binpb").read_bytes()
        self._described = {file.name: file.SerializeToString() for file in FileDescriptorSet.FromString(described).file}

    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        answer = super()._file_containing_symbol(request, fully_qualified_name)
        if answer.HasField("error_response"):
            service, _, method = fully_qualified_name.rpartition(".")
            if service in self._service_names and method in self._pool.FindServiceByName(service).methods_by_name:
                answer = super()._file_containing_symbol(request, service)
        return self._with_comments(answer)

    def _file_by_filename(self, request: Any, filename: str) -> Any:
        return self._with_comments(super()._file_by_filename(request, filename))

    def _with_comments(self, answer: Any) -> Any:
        """The contract's files with their comments, which Python's descriptors lack."""
        sent = answer.file_descriptor_response.file_descriptor_proto
        for index, serialized in enumerate(sent):
            sent[index] = self._described.get(FileDescriptorProto.FromString(serialized).name, serialized)
        return answer


def reflection_handlers(services: tuple[str, ...], guard: CallGuard) -> list[grpc.GenericRpcHandler]:
    """Handlers that answer under both names of reflection."""
    servicer = _Servicer(services)

    async def answers(requests: AsyncIterator[reflection_pb2.ServerReflectionRequest]) -> AsyncGenerator[bytes]:
        async for answer in servicer.ServerReflectionInfo(requests, None):
            yield answer.SerializeToString()

    method = guard.conversation("ServerReflectionInfo", reflection_pb2.ServerReflectionRequest.FromString, answers)
    return [grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method}) for name in _NAMES]
