"""How many calls are under way, in all and of one host, and on how many connections of it."""

import asyncio
import ipaddress
from collections import Counter
from typing import Final
from urllib.parse import unquote

from changefeed_gateway.core.errors import Reason, Throttled

_IPV6_NETWORK_BITS: Final = 64
"""What one host is given as its own: it can speak from every address of it."""


class Admission:
    """Counts what is under way and refuses what is too much."""

    def __init__(self, limit: int, reason: Reason, share_setting: str, peer_share: float) -> None:
        """Begin with nothing under way; one peer may hold a share of the limit, one place at least."""
        self.idle = asyncio.Event()
        self.idle.set()
        self._limit, self._reason, self._share_setting = limit, reason, share_setting
        self._peer_limit = max(1, int(limit * peer_share))
        self._held: Counter[str] = Counter()
        self._under_way = 0

    def enter(self, host: str) -> None:
        """Take a place for a peer's host; `leave` gives it back. Raises Throttled when there is none."""
        if self._under_way >= self._limit:
            raise Throttled(f"the gateway serves {self._limit} already: try again", reason=self._reason)
        if self._held[host] >= self._peer_limit:
            raise Throttled(
                f"this peer holds {self._peer_limit} already, its share: close some, or let the gateway's operator "
                f"raise limits.{self._share_setting}",
                reason=self._reason,
            )
        self._held[host] += 1
        self._under_way += 1
        self.idle.clear()

    def leave(self, host: str) -> None:
        """Give a place back."""
        self._held[host] -= 1
        if not self._held[host]:
            del self._held[host]
        self._under_way -= 1
        if not self._under_way:
            self.idle.set()


class Connections:
    """Counts the connections of each host on which calls are under way; gRPC tells of no others."""

    def __init__(self, peer_limit: int) -> None:
        self._peer_limit = peer_limit
        self._calls: dict[str, Counter[str]] = {}

    def enter(self, host: str, peer: str) -> None:
        """Count a call of a peer, which is one connection; `leave` ends it. Raises Throttled."""
        calls = self._calls.setdefault(host, Counter())
        if peer not in calls and len(calls) >= self._peer_limit:
            raise Throttled(
                f"this host calls on {len(calls)} connections already: share connections, or let the gateway's "
                "operator raise limits.peer_connections",
                reason=Reason.TOO_MANY_CONNECTIONS,
            )
        calls[peer] += 1

    def leave(self, host: str, peer: str) -> None:
        """A call is over."""
        calls = self._calls[host]
        calls[peer] -= 1
        if not calls[peer]:
            del calls[peer]
        if not calls:
            del self._calls[host]


def host_of(peer: str) -> str:
    """The host of a peer as gRPC writes it: `ipv4:10.0.0.1:5000`, `ipv6:%5B::1%5D:5000`, `unix:/path`.

    An IPv6 host is its network of 64 bits, an IPv4 address inside IPv6 is that address. What is no TCP peer is itself.
    """
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return peer
    text = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_NETWORK_BITS), strict=False))
    return str(address)
