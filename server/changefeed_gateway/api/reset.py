"""How a call is ended without waiting for its client: docs/decisions/0015-a-call-is-reset-through-the-core.md."""

from typing import Any, Final

import grpc
import structlog
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # not in the published types
from structlog.typing import FilteringBoundLogger

_LENDER: Final = "peer_identities"
"""The function of cygrpc that a context hands its core call to."""

_log: FilteringBoundLogger = structlog.get_logger("changefeed_gateway.calls")


def reset(context: "grpc.aio.ServicerContext[bytes, bytes]", code: grpc.StatusCode, details: str) -> None:
    """End a call in gRPC's core, as the synchronous `ServicerContext.cancel` does and grpc.aio has no word for.

    What the client has not taken is dropped, it is sent the status, and the HTTP/2 stream is reset; other streams of
    the connection go on. To be called only while the call's task is not done: afterwards there is no core call.
    """
    lent: list[object] = []

    def cancel(call: Any) -> None:
        lent.append(call)
        call.cancel(code.value[0], details)

    original = getattr(cygrpc, _LENDER)
    setattr(cygrpc, _LENDER, cancel)
    try:
        context.peer_identities()
    finally:
        setattr(cygrpc, _LENDER, original)
    if not lent:
        _log.error("this version of grpcio lets no call be reset: a client that does not read keeps its memory")
