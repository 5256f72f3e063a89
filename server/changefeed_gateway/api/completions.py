"""grpc.aio takes what its core has completed all at once, and not one thing in each turn of the event loop."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc.aio

_MOST_BYTES: Final = 65_536


@contextmanager
def taken_at_once() -> Iterator[None]:
    """Make gRPC's way from its core to the event loop one that does not fill; to be open while a server is made.

    For each completed operation gRPC's thread writes a byte into a pair of sockets, and takes all that is completed for
    each byte it reads. With one byte a turn some 278 unread ones fill the pair (Linux counts 768 bytes for each), the
    thread stands still, and whatever happens next, new calls too, comes at one a turn. Where grpc.aio is in use
    already, its pair was made before and stays as it is.
    """
    original = socket.socketpair
    socket.socketpair = _pair  # type: ignore[assignment]
    try:
        grpc.aio.init_grpc_aio()
    finally:
        socket.socketpair = original
    try:
        yield
    finally:
        # What was made in the block keeps it.
        grpc.aio.shutdown_grpc_aio()


def _pair() -> tuple[socket.socket, socket.socket]:
    reader, writer = _original_pair()
    return _Emptied(fileno=reader.detach()), writer


_original_pair: Final = socket.socketpair


class _Emptied(socket.socket):
    """Gives all that has come, whatever is asked for."""

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        return super().recv(max(size, _MOST_BYTES), flags)
