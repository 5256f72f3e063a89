"""HTTP/2 as nobody should speak it: frames by hand on plain sockets, from another host than the witness."""

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

from bench.workers.http2 import PREFACE, frame, request_headers
from tests.abuse.mutation import mutated
from tests.abuse.witness import SUBSCRIBE

HOST = "127.0.0.2"
"""Where attacks come from."""
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 1, 4
SUBSCRIBE_HEADERS = request_headers("/changefeed.v1.ChangeFeedService/Subscribe")
_MESSAGE = SUBSCRIBE.SerializeToString()
SUBSCRIBE_DATA = b"\0" + struct.pack(">I", len(_MESSAGE)) + _MESSAGE
OPENING = PREFACE + frame(SETTINGS, 0, 0, b"")
CONVERSATION = (
    OPENING
    + frame(HEADERS, END_HEADERS, 1, SUBSCRIBE_HEADERS)
    + frame(DATA, END_STREAM, 1, SUBSCRIBE_DATA)
    + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 65_535))
    + frame(PING, 0, 0, bytes(8))
)
STEP = 64 * 1024
"""Bytes between two looks whether the other side still listens."""


@asynccontextmanager
async def connection(target: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that is dropped at the end, whatever is under way on it."""
    host, _, port = target.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=(HOST, 0))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def send(target: str, pieces: Iterable[bytes]) -> int:
    """Send on one connection until it is all sent or refused, reading nothing; answers how many bytes went."""
    sent = 0
    async with connection(target) as (_, writer):
        with suppress(OSError, TimeoutError):
            for piece in pieces:
                writer.write(piece)
                sent += len(piece)
                # A side that has stopped reading has bounded what it holds.
                async with asyncio.timeout(1):
                    await writer.drain()
                if writer.transport.is_closing():
                    break
    return sent


def steps(one: Iterable[bytes]) -> Iterable[bytes]:
    """Frames in larger pieces."""
    piece = bytearray()
    for each in one:
        piece += each
        if len(piece) >= STEP:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


def garbage(dice: random.Random) -> Iterable[bytes]:
    """No HTTP/2 at all, or HTTP of another age, or only its beginning."""
    beginning = dice.choice(
        [b"", PREFACE, OPENING, PREFACE[: dice.randrange(24)], b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02"]
    )
    yield beginning + dice.randbytes(dice.randrange(1, 4_000))


def random_frames(dice: random.Random) -> Iterable[bytes]:
    """Frames of any kind, with any flags, on any stream, of any content; their length is as said."""
    yield OPENING
    for _ in range(dice.randrange(1, 50)):
        stream = dice.choice([0, 1, 2, 3, dice.getrandbits(31)])
        yield frame(dice.randrange(12), dice.getrandbits(8), stream, dice.randbytes(dice.choice([0, 4, 5, 6, 8, 200])))


def cut(dice: random.Random) -> Iterable[bytes]:
    """A good conversation that breaks off."""
    yield CONVERSATION[: dice.randrange(len(CONVERSATION))]


def mutated_conversation(dice: random.Random) -> Iterable[bytes]:
    """A good conversation, altered behind its preface."""
    yield PREFACE + mutated(CONVERSATION[len(PREFACE) :], dice)


def continuations() -> Iterable[bytes]:
    """A block of headers without end: 16 MB of them."""
    field = b"\x00\x01a\x7f\x81\x01" + b"v" * 256
    yield OPENING + frame(HEADERS, 0, 1, SUBSCRIBE_HEADERS)
    yield from steps(frame(CONTINUATION, 0, 1, field * 60) for _ in range(1_000))


def empty_continuations() -> Iterable[bytes]:
    """The same, of nothing but frames."""
    yield OPENING + frame(HEADERS, 0, 1, SUBSCRIBE_HEADERS)
    yield from steps(frame(CONTINUATION, 0, 1, b"") for _ in range(20_000))


def header_bomb() -> Iterable[bytes]:
    """One large field, then a byte for each time it is said again: 4 kB become 40 MB."""
    value = b"v" * 4_000
    remembered = b"\x40\x01a\x7f" + bytes((0x80 | (4_000 - 127) & 0x7F, (4_000 - 127) >> 7)) + value
    yield OPENING + frame(HEADERS, END_STREAM | END_HEADERS, 1, SUBSCRIBE_HEADERS + remembered + b"\xbe" * 10_000)


def resets() -> Iterable[bytes]:
    """Calls that are taken back at once, two thousand of them."""
    yield OPENING
    yield from steps(
        frame(HEADERS, END_HEADERS, stream, SUBSCRIBE_HEADERS)
        + frame(DATA, END_STREAM, stream, SUBSCRIBE_DATA)
        + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
        for stream in range(1, 4_001, 2)
    )


def no_text() -> Iterable[bytes]:
    """Calls of methods that are no text, which gRPC's own loop dies of."""
    headers = SUBSCRIBE_HEADERS.replace(b"changefeed", b"change\xffeed")
    yield OPENING
    yield from steps(frame(HEADERS, END_STREAM | END_HEADERS, stream, headers) for stream in range(1, 1_001, 2))


def control(kind: int, payload: bytes, count: int = 20_000) -> Iterable[bytes]:
    """Frames that want an answer each, which nobody reads."""
    yield OPENING
    yield from steps(frame(kind, 0, 0, payload) for _ in range(count))


def empty_data() -> Iterable[bytes]:
    """Frames of a request that say nothing."""
    yield OPENING + frame(HEADERS, END_HEADERS, 1, SUBSCRIBE_HEADERS)
    yield from steps(frame(DATA, 0, 1, b"") for _ in range(20_000))


def overflowing_windows() -> Iterable[bytes]:
    """More room than there may be, again and again."""
    yield OPENING + frame(HEADERS, END_HEADERS, 1, SUBSCRIBE_HEADERS)
    yield from steps(frame(WINDOW_UPDATE, 0, stream, b"\x7f\xff\xff\xff") for _ in range(1_000) for stream in (0, 1))


def half_open(count: int = 1_500) -> Iterable[bytes]:
    """Calls whose request never comes."""
    yield OPENING
    yield from steps(frame(HEADERS, END_HEADERS, stream, SUBSCRIBE_HEADERS) for stream in range(1, 2 * count, 2))


def without_windows(count: int = 1_000) -> Iterable[bytes]:
    """Streams that leave no room for a byte of their answers."""
    yield PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
    yield from steps(
        frame(HEADERS, END_HEADERS, stream, SUBSCRIBE_HEADERS) + frame(DATA, END_STREAM, stream, SUBSCRIBE_DATA)
        for stream in range(1, 2 * count, 2)
    )
