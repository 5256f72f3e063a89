"""The replicas of a gateway: every address that the name in a target has."""

import asyncio
import re
import socket
from collections.abc import Mapping
from typing import Final, NamedTuple

from changefeed_gateway.cli.calling import ChannelOptions
from changefeed_gateway.cli.exits import ExitCode, Failed
from changefeed_gateway.settings import GatewayTarget

_NAME: Final = re.compile(r"(?:dns:(?:///)?)?(?P<host>[^\s:/\[\]]+):(?P<port>[0-9]+)", re.ASCII)
"""Of gRPC's targets the one that names a host ("gRPC Name Resolution"); `[::1]:50051` and `unix:...` name none."""


class Replica(NamedTuple):
    """One address of a gateway."""

    target: GatewayTarget
    name: str = ""
    """host:port whose address it is; empty where it is asked by what the target says."""

    @property
    def options(self) -> ChannelOptions:
        """Of channels to it: the authority of its calls, against which TLS holds its certificate too."""
        return (("grpc.default_authority", self.name),) if self.name else ()

    @property
    def way(self) -> tuple[str, bool]:
        """The name, and which family of its addresses."""
        return self.name, self.target.address.startswith("[")


async def replicas_of(target: GatewayTarget) -> list[Replica]:
    """One for each address of the target's name; one in all where it names no host, or a host with one address."""
    named = _NAME.fullmatch(target.address)
    if named is None:
        return [Replica(target)]
    host, port = named.groups()
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
    except (OSError, UnicodeError):
        return [Replica(target)]  # gRPC's resolver has its own ways, and who connects says what does not answer
    addresses = dict.fromkeys(f"[{at[0]}]" if family == socket.AF_INET6 else str(at[0]) for family, *_, at in found)
    if len(addresses) == 1:
        return [Replica(target)]
    origin = f"an address of {host}, {target.origin}"
    return [Replica(GatewayTarget(f"{address}:{port}", origin), f"{host}:{port}") for address in addresses]


def failures(answers: Mapping[Replica, object]) -> dict[Replica, BaseException]:
    """What kept replicas from answering.

    A name has addresses of both families where its hosts have, whether gateways listen there or not: a family in which
    nobody is there, while somebody answers in the other, is no replica that is away.
    """
    answering = {replica.way for replica, answer in answers.items() if not _is_away(answer)}
    names = {name for name, _ in answering}
    return {
        replica: answer
        for replica, answer in answers.items()
        if isinstance(answer, BaseException)
        and not (_is_away(answer) and replica.name in names and replica.way not in answering)
    }


def _is_away(answer: object) -> bool:
    return isinstance(answer, Failed) and answer.code is ExitCode.TRANSIENT
