"""grpc.aio's event loop turns once for all that its core has completed, and not once for each operation."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc.aio

_MOST_BYTES: Final = 65_536


@contextmanager
def taken_at_once() -> Iterator[None]:
    """Let grpc.aio hear of all that is completed in one turn of the loop; to be open while a server is made.

    For each completed operation gRPC's thread writes a byte into a pair of sockets. The loop reads one byte a turn, and
    takes all that is completed, so for most bytes it turns for nothing; and some 278 unread ones fill the pair (Linux
    counts 768 bytes for each), so that the thread stands still. Here one read empties the pair. Where grpc.aio is in
    use already, its pair was made before and stays as it is.
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
