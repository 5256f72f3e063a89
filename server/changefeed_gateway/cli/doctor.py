"""`changefeed doctor`: what is wrong, and what to do about it."""

import asyncio
from pathlib import Path

import grpc
import typer
from grpc_health.v1 import health_pb2
from rich.text import Text

from changefeed_gateway.app.opening import examine
from changefeed_gateway.app.opening.contract import OperatorError
from changefeed_gateway.cli.calling import GatewayOptions, calls_gateway
from changefeed_gateway.cli.exits import ExitCode, exits
from changefeed_gateway.cli.options import Config, Json
from changefeed_gateway.cli.output import err, out, print_json
from changefeed_gateway.settings import (
    GatewayTarget,
    Settings,
    SettingsError,
    load_settings,
)

_SECONDS = 3.0


@calls_gateway
def doctor(config: Config = None, json: Json = False, *, gateway: GatewayOptions) -> None:
    """Look over settings, databases and the gateway; every line that is wrong says the remedy."""
    with exits():
        report = _Report(json=json)
        asyncio.run(report.run(config, gateway))
    raise typer.Exit(ExitCode.UNHEALTHY if report.problems else ExitCode.OK)


class _Report:
    def __init__(self, *, json: bool) -> None:
        self.problems = 0
        self._json = json

    async def run(self, config: Path | None, gateway: GatewayOptions) -> None:
        settings = self._settings(config)
        names = list(settings.connections) if settings else []
        for name in names:
            if settings:
                await self._database(settings, name)
        try:
            target = gateway.found(config)
        except SettingsError as error:
            if settings is not None:
                self._refused(error)
            return
        await self._gateway(target, gateway, names)

    def _settings(self, config: Path | None) -> Settings | None:
        try:
            settings = load_settings(config)
        except SettingsError as error:
            self._refused(error)
            return None
        self._say("settings", True, f"connections: {', '.join(settings.connections)}")
        return settings

    def _refused(self, error: SettingsError) -> None:
        for problem in error.problems:
            self._say("settings", False, str(problem), "change the setting; see docs/configuration.md")

    async def _database(self, settings: Settings, name: str) -> None:
        try:
            with err.status(f"looking at {name}"):
                findings = await examine(settings, name)
        except (OperatorError, SettingsError) as error:
            self._say(name, False, str(error), "repair what the message names")
            return
        for finding in findings:
            self._say(f"{name}: {finding.subject}", finding.healthy, finding.detail, finding.remedy)

    async def _gateway(self, target: GatewayTarget, gateway: GatewayOptions, names: list[str]) -> None:
        async with gateway.dialer(target.address, ())() as channel:
            if await self._serving(channel, f"gateway at {target.address} ({target.origin})", ""):
                for name in names:
                    await self._serving(channel, f"gateway: {name}", name)

    async def _serving(self, channel: grpc.aio.Channel, subject: str, name: str) -> bool:
        """Ask for the health of one name; answers whether the gateway is there."""
        check: grpc.aio.UnaryUnaryMultiCallable[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse] = (
            channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
        )
        try:
            answer = await check(health_pb2.HealthCheckRequest(service=name), timeout=_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                self._say(subject, False, "not known to it", "it runs with other settings: restart it")
                return True
            remedy = "start it with changefeed serve, or say with --target where it is"
            self._say(subject, False, error.code().name, remedy)
            return False
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        serving = answer.status == health_pb2.HealthCheckResponse.SERVING
        self._say(subject, serving, status, "" if serving else "see the gateway's log")
        return True

    def _say(self, subject: str, healthy: bool, detail: str, remedy: str = "") -> None:
        self.problems += not healthy
        if self._json:
            print_json(
                "finding",
                {"subject": subject, "healthy": healthy, "detail": detail, "remedy": remedy},
            )
            return
        mark = Text.assemble(("ok   ", "green") if healthy else ("WRONG", "bold red"), "  ", f"{subject}: {detail}")
        out.print(mark, soft_wrap=True)
        if remedy:
            out.print(Text(f"       remedy: {remedy}", "yellow"), soft_wrap=True)
