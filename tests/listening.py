"""Ports for servers, and the end of one of asyncio's that loses no connection."""

import asyncio
import secrets
import socket
from collections.abc import Iterable
from typing import Final, Protocol

_TURNS: Final = 3
"""Of the event loop, from `accept` until a connection has its transport and its protocol."""


class Listening(Protocol):
    """A socket that listens."""

    def fileno(self) -> int:
        """Its number."""


async def stop_accepting(sockets: Iterable[Listening]) -> None:
    """Accept nobody more, and let who was accepted become a connection, before the server is closed.

    Of one that closes in between asyncio forgets the socket, which stays open (CPython's issue 109564).
    """
    loop = asyncio.get_running_loop()
    for listening in sockets:
        loop.remove_reader(listening)
    for _ in range(_TURNS):
        await asyncio.sleep(0)


def free_port() -> int:
    """Free at every address, and none that the system gives to who asks for any: nobody takes it before its server."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        return port
