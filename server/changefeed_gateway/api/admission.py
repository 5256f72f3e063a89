"""What one host may take: calls under way, connections that they are on, tokens that are no good."""

import asyncio
import ipaddress
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from changefeed_gateway.core.clock import monotonic
from changefeed_gateway.core.errors import Reason, Throttled
from changefeed_gateway.core.quota import Allowance

_IPV6_NETWORK_BITS: Final = 64
"""What one host is given as its own: it can speak from every address of it."""


_MOST_PEERS: Final = 16
"""Connections of one host that bring bad tokens, before all of the host are turned away."""
_MOST_REMEMBERED: Final = 10_000
"""Hosts that brought bad tokens; beyond, those are forgotten that have not of late."""

_LATE_SECONDS: Final = 1.0
"""How late they hear of it, by half more or less: who was refused together does not come back together."""
_MOST_LATE: Final = 100
"""Answers that are late at once; beyond, they come at once: each that waits takes memory."""


class Admission:
    """Counts what is under way and refuses what is too much."""

    def __init__(self, limit: int, reason: Reason, share_setting: str, peer_share: float) -> None:
        """Begin with nothing under way; one host may hold a share of the limit, one place at least."""
        self.idle = asyncio.Event()
        self.idle.set()
        self._limit, self._reason, self._share_setting = limit, reason, share_setting
        self._peer_limit = max(1, int(limit * peer_share))
        self._held: Counter[str] = Counter()
        self._under_way = 0

    def enter(self, host: str) -> None:
        """Take a place for a host; `leave` gives it back. Raises Throttled when there is none."""
        if self._under_way >= self._limit:
            raise Throttled(f"the gateway serves {self._limit} already: try again", reason=self._reason)
        if self._held[host] >= self._peer_limit:
            raise Throttled(
                f"this host holds {self._peer_limit} already, its share: close some, or let the gateway's operator "
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


class LateAnswers:
    """Delays refusals to callers who come back before the time they were told.

    A refusal costs about what an answer does: it is late, so that who waits for it asks for fewer.
    """

    def __init__(self) -> None:
        self._waiting = 0

    async def wait(self) -> None:
        """Let a refusal be late, unless too many are."""
        if self._waiting < _MOST_LATE:
            self._waiting += 1
            try:
                await asyncio.sleep(_LATE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - spread, not secrecy
            finally:
                self._waiting -= 1


class BadTokens:
    """Counts the tokens of each host that nobody of ours has signed, and turns away who goes on bringing them.

    Only the connections that brought them, so that others of the same host are served beside: behind one address may
    be a whole office. A host that brings them on ever new connections is turned away whole.
    """

    def __init__(self, rate: float, *, now: Callable[[], float] = monotonic) -> None:
        """`rate` is how many a second of one host are heard; a second's worth may come at once."""
        self._rate, self._now = rate, now
        self._hosts: dict[str, _Offender] = {}
        self._sweep_at = _MOST_REMEMBERED
        self._late = LateAnswers()

    async def check(self, host: str, peer: str) -> None:
        """Let a call of a peer, which is one connection, be heard. Raises Throttled, after a while."""
        if self._turns_away(host, peer):
            await self._late.wait()
            raise Throttled(
                f"more than {self._rate:g} bad tokens a second came from this host: send only good ones, unchanged, or "
                "let the gateway's operator raise limits.peer_bad_tokens",
                reason=Reason.TOO_MANY_BAD_TOKENS,
            )

    def _turns_away(self, host: str, peer: str) -> bool:
        offender = self._hosts.get(host)
        if offender is None:
            return False
        if offender.allowance.is_full(self._now()):
            del self._hosts[host]
            return False
        is_known = peer in offender.peers or len(offender.peers) >= _MOST_PEERS
        return is_known and offender.allowance.wait(1.0, self._now()) > 0

    def count(self, host: str, peer: str) -> None:
        """A token was no good."""
        offender = self._hosts.get(host)
        if offender is None:
            self._sweep()
            offender = self._hosts[host] = _Offender(Allowance(self._rate, self._now()))
        if not offender.allowance.wait(1.0, self._now()):
            offender.allowance.take(1.0, self._now())
        if len(offender.peers) < _MOST_PEERS:
            offender.peers.add(peer)

    def _sweep(self) -> None:
        if len(self._hosts) >= self._sweep_at:
            now = self._now()
            self._hosts = {host: each for host, each in self._hosts.items() if not each.allowance.is_full(now)}
            self._sweep_at = max(_MOST_REMEMBERED, 2 * len(self._hosts))


@dataclass(slots=True)
class _Offender:
    """A host that has brought bad tokens of late."""

    allowance: Allowance
    peers: set[str] = field(default_factory=set)
    """Its connections that did."""


def host_of(peer: str) -> str:
    """The host of a peer as gRPC writes it: `ipv4:10.0.0.1:5000`, `ipv6:%5B::1%5D:5000`, `unix:/path`.

    An IPv6 host is its network of 64 bits, an IPv4 address inside IPv6 is that address. What is no TCP peer is itself.
    """
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return peer
    return host_of_address(rest.rpartition(":")[0].strip("[]")) or peer


def host_of_address(text: str) -> str:
    """The host of an IP address; empty for what is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_NETWORK_BITS), strict=False))
    return str(address)
