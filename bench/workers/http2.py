"""A load client so light that the server is what gets measured: just enough HTTP/2 for gRPC streams.

It opens many streams on one connection, cuts DATA frames into gRPC messages without parsing them, and gives windows
back in large steps. A thousand streams of a real client would need more processor time than the gateway under test.
"""

import asyncio
import struct
from collections.abc import Callable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_HEADER_BYTES = 9
_MAX_WINDOW = 2**31 - 1
_FIRST_WINDOW = 65_535
_INITIAL_WINDOW_SIZE = 4
_MAX_CONCURRENT_STREAMS = 3

OnMessage = Callable[[bytes], None]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(index: int, value: bytes) -> bytes:
    """A header field whose name has an index below 15, not to be remembered."""
    return bytes((index, len(value))) + value


def request_headers(path: str) -> bytes:
    post, http, path_index, authority_index = b"\x83", b"\x86", 4, 1
    content_type = b"\x0f\x10\x10application/grpc"
    trailers = b"\x00\x02te\x08trailers"
    return (
        post
        + http
        + _literal(path_index, path.encode())
        + _literal(authority_index, b"bench")
        + content_type
        + trailers
    )


class LoadConnection(asyncio.Protocol):
    """One connection with many calls of one method."""

    def __init__(self, on_message: OnMessage, *, gives_windows: bool = True) -> None:
        self.closed_streams = 0
        """Streams that the server ended, and all of them when it closed the connection."""
        self.received_bytes = 0
        self._on_message, self._gives_windows = on_message, gives_windows
        self._rest = bytearray()
        self._ended: set[int] = set()
        self._partial: dict[int, bytearray] = {}
        self._next_stream = 1
        self._unreturned = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = struct.pack(">HI", _INITIAL_WINDOW_SIZE, _MAX_WINDOW) if self._gives_windows else b""
        transport.write(PREFACE + frame(_SETTINGS, 0, 0, settings))
        if self._gives_windows:
            self._return_window(_MAX_WINDOW - _FIRST_WINDOW)

    def call(self, path: str, request: bytes) -> None:
        """Begin a call with one request message."""
        assert self._transport is not None
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        message = b"\0" + struct.pack(">I", len(request)) + request
        self._transport.write(
            frame(_HEADERS, _END_HEADERS, stream, request_headers(path)) + frame(_DATA, _END_STREAM, stream, message)
        )

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed_streams = self._next_stream // 2

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        rest = self._rest
        rest += data
        at, end = 0, len(rest)
        while end - at >= _HEADER_BYTES:
            size = rest[at] << 16 | rest[at + 1] << 8 | rest[at + 2]
            after = at + _HEADER_BYTES + size
            if after > end:
                break
            kind, flags = rest[at + 3], rest[at + 4]
            stream = int.from_bytes(rest[at + 5 : at + 9]) & _MAX_WINDOW
            self._take_frame(kind, flags, stream, bytes(rest[at + _HEADER_BYTES : after]))
            at = after
        del rest[:at]

    def _take_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._take_data(stream, payload)
        elif kind in (_PING, _SETTINGS) and not flags & _ACK:
            assert self._transport is not None
            self._transport.write(frame(kind, _ACK, 0, payload if kind == _PING else b""))
        if kind == _RST_STREAM or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
            self._ended.add(stream)
            self.closed_streams = len(self._ended)

    def _take_data(self, stream: int, payload: bytes) -> None:
        if self._gives_windows:
            self._unreturned += len(payload)
            if self._unreturned > _MAX_WINDOW // 4:
                self._return_window(self._unreturned)
                self._unreturned = 0
        partial = self._partial.get(stream)
        if partial is None:
            if len(payload) >= 5 and len(payload) == 5 + int.from_bytes(payload[1:5]):
                self._on_message(payload[5:])  # the usual message: one frame, whole
                return
            partial = self._partial[stream] = bytearray()
        partial += payload
        while len(partial) >= 5 and len(partial) >= (whole := 5 + int.from_bytes(partial[1:5])):
            self._on_message(bytes(partial[5:whole]))
            del partial[:whole]
        if not partial:
            del self._partial[stream]

    def _return_window(self, size: int) -> None:
        assert self._transport is not None
        self._transport.write(frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", size)))
