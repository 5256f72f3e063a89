"""The port that worker processes share: each listens on it for itself, and the system spreads the connections."""

import errno
import socket
from contextlib import ExitStack
from typing import Final, Self

from changefeed_gateway.settings.values import HostPort

_REUSE_PORT: Final[int | None] = getattr(socket, "SO_REUSEPORT", None)


class ReservedPort:
    """An address that only processes of this user can listen on as long as this is open."""

    def __init__(self, address: HostPort, sockets: ExitStack) -> None:
        self.address = address
        self._sockets = sockets

    @classmethod
    def of(cls, address: HostPort) -> Self:
        """Reserve "host:port" (port 0: any free one). Raises OSError when somebody listens there already."""
        if _REUSE_PORT is None:
            raise OSError("this system does not let several processes listen on one port")
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        families = dict.fromkeys((family, place[0]) for family, *_, place in found)
        with ExitStack() as sockets:
            port, missing = address.port, []
            for family, host in families:
                try:
                    port = _reserved(family, str(host), port, sockets)
                except OSError as error:
                    # As gRPC has it: localhost may have an address of a family that this machine does not speak.
                    if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                        raise
                    missing.append(error)
            if len(missing) == len(families):
                raise missing[0]
            return cls(address._replace(port=port), sockets.pop_all())

    def close(self) -> None:
        """Let go of it; idempotent."""
        self._sockets.close()


def _reserved(family: int, host: str, port: int, sockets: ExitStack) -> int:
    """Answers the port.

    Workers listen with SO_REUSEPORT, which takes a port too that another gateway's workers have. So it is tried without
    first, and listened on: that fails whoever has the port, with SO_REUSEPORT or not.
    """
    with socket.socket(family) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(tried, host, port)
        tried.listen()
        port = int(tried.getsockname()[1])
    kept = sockets.enter_context(socket.socket(family))
    # To bind beside what connections of an earlier process have left (TIME_WAIT); not beside a later gateway's trial.
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    assert _REUSE_PORT is not None  # noqa: S101 - `of` has looked
    kept.setsockopt(socket.SOL_SOCKET, _REUSE_PORT, 1)
    _bind(kept, host, port)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return port


def _bind(bound: socket.socket, host: str, port: int) -> None:
    if bound.family == socket.AF_INET6:
        # One family each: of the other one it is asked by itself.
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    bound.bind((host, port))
