"""Asks the gateway whether it serves; exits with 1 if not.

The first argument is the address of its health service, 127.0.0.1:50051 without one; or, where that speaks TLS or asks
who calls, a URL of `monitoring.listen`, such as http://127.0.0.1:9464/readyz.
"""

import sys
import urllib.request
from datetime import timedelta
from http import HTTPStatus

import grpc
from grpc_health.v1 import health_pb2

PATIENCE = timedelta(seconds=2)
# Docker gives every container the proxy of its client, which knows nothing of this one's own ports.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def serves(address: str) -> bool:
    """Return whether an address answers in time that it serves."""
    if address.startswith("http://"):
        try:
            with _OPENER.open(address, timeout=PATIENCE.total_seconds()) as page:
                return bool(page.status == HTTPStatus.OK)
        except OSError as error:
            sys.stderr.write(f"{address}: {error}\n")
            return False
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=PATIENCE.total_seconds())
        except grpc.RpcError as error:
            sys.stderr.write(f"{address}: {error.code().name}\n")
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(0 if serves(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051") else 1)
