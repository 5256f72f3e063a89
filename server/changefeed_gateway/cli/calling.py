"""Finds the gateway, connects as options and environment say, and tells at once when nobody is there."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final

import grpc
import typer

from changefeed_client import OPTIONS, ChangeFeedClient, TokenFile, dialer
from changefeed_gateway.cli.exits import ExitCode, Failed
from changefeed_gateway.cli.output import complain
from changefeed_gateway.settings import GatewayTarget, client_settings, gateway_target
from changefeed_gateway.settings.values import format_duration

ChannelOptions = tuple[tuple[str, Any], ...]
_File = Path | None

_LONGEST_CONNECTING: Final = timedelta(seconds=5)
"""Of a first connection that nobody refuses, as behind a firewall."""
_OPTIONS: Final = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """Which gateway, and how to connect; what no option says, the environment does (CHANGEFEED_TARGET and so on)."""

    target: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="The gateway; else CHANGEFEED_TARGET, else listen of the settings."),
    ] = None
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS; or CHANGEFEED_TLS.")] = False
    ca: Annotated[_File, typer.Option(metavar="FILE", help="Whom to trust, in PEM; or CHANGEFEED_CA.")] = None
    cert: Annotated[_File, typer.Option(metavar="FILE", help="A certificate of yours; or CHANGEFEED_CERT.")] = None
    key: Annotated[_File, typer.Option(metavar="FILE", help="Its key; or CHANGEFEED_KEY.")] = None
    access_token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TOKEN",
            help="An access token, which others on this machine may see here; or CHANGEFEED_TOKEN.",
            show_default=False,
        ),
    ] = field(default=None, repr=False)
    token_file: Annotated[
        _File, typer.Option(metavar="FILE", help="A file that holds it; or CHANGEFEED_TOKEN_FILE.")
    ] = None

    def found(self, config: Path | None = None) -> GatewayTarget:
        """The gateway that is meant. Raises SettingsError."""
        return gateway_target(self.target, config)

    def dialer(self, address: str, options: ChannelOptions) -> Callable[[], grpc.aio.Channel]:
        """What makes channels to it. Raises SettingsError and Failed; what it returns raises Failed too."""
        ours = client_settings()
        with _usage():
            dial = dialer(
                address,
                tls=self.tls or ours.tls,
                ca=self.ca or ours.ca,
                cert=self.cert or ours.cert,
                key=self.key or ours.key,
                bearer=self._bearer(),
                options=options,
            )

        def checked() -> grpc.aio.Channel:
            with _usage():
                return dial()

        return checked

    def _bearer(self) -> Callable[[], str] | None:
        """An option goes before the environment, whichever of the two it is."""
        ours = client_settings()
        chosen = (self.access_token, self.token_file)
        if chosen == (None, None):
            chosen = (ours.token.get_secret_value() if ours.token else None, ours.token_file)
        token, file = chosen
        if token is not None and file is not None:
            raise ValueError("a token or a file that holds one, not both")
        if token is not None:
            return lambda: token
        return None if file is None else TokenFile(file)


@contextmanager
def _usage() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Failed(ExitCode.USAGE, f"{error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise Failed(ExitCode.USAGE, f"--tls, --ca, --cert, --key, --token: {error}") from None


def calls_gateway(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `GatewayOptions` that it has not itself, in place of its parameter `gateway`."""
    signature = inspect.signature(command)
    own = {name: parameter for name, parameter in signature.parameters.items() if name != "gateway"}
    every = inspect.signature(GatewayOptions).parameters
    options = {name: parameter for name, parameter in every.items() if name not in own}
    parameters = [*own.values(), *options.values()]

    @wraps(command)
    def run(**arguments: Any) -> None:
        gateway = GatewayOptions(**{name: arguments.pop(name) for name in options})
        command(**arguments, gateway=gateway)

    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


@asynccontextmanager
async def client_of(
    gateway: GatewayOptions,
    target: GatewayTarget | None = None,
    *,
    options: ChannelOptions = (),
    patience: timedelta | None = None,
) -> AsyncIterator[ChangeFeedClient]:
    """A client of the gateway that an option, the environment or the settings name, once it has been reached.

    Or of `target`, with more options of its channels. A first connection that fails is the end, unless `patience` says
    how long to wait for it. Raises SettingsError and Failed.
    """
    found = target or gateway.found()
    await _reach(found, gateway.dialer(found.address, (*_OPTIONS, *options)), patience)
    async with ChangeFeedClient(gateway.dialer(found.address, (*OPTIONS, *options))) as client:
        yield client


async def _reach(target: GatewayTarget, dial: Callable[[], grpc.aio.Channel], patience: timedelta | None) -> None:
    async with dial() as channel:
        if await _connected(channel, _LONGEST_CONNECTING, again=False):
            return
        if patience is not None:
            complain(f"no gateway answers at {target.address}: waiting up to {format_duration(patience)} for it")
            if await _connected(channel, patience, again=True):
                return
    raise Failed(
        ExitCode.TRANSIENT,
        f"no gateway answers at {target.address} ({target.origin}):"
        " start it with changefeed serve, or say with --target where it is, and with --tls or --ca if it speaks TLS",
    )


async def _connected(channel: grpc.aio.Channel, within: timedelta, *, again: bool) -> bool:
    """Whether the channel connects within a time; not `again`, with its first try."""
    ends = {grpc.ChannelConnectivity.READY} | (set() if again else {grpc.ChannelConnectivity.TRANSIENT_FAILURE})
    try:
        async with asyncio.timeout(within.total_seconds()):
            while (state := channel.get_state(try_to_connect=True)) not in ends:
                await channel.wait_for_state_change(state)
    except TimeoutError:
        return False
    return state is grpc.ChannelConnectivity.READY
