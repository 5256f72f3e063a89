"""From the start of a gateway to the first event of a stream, on a database that is there."""

import argparse
import os
import socket
import subprocess
import sys
import time
from typing import Final

import grpc

from bench.core import private_directory
from bench.database import Database
from bench.figures import median
from bench.gateway import Gateway, GatewayFailed
from bench.processes import ROOT, Answer, ForeignLoad
from bench.report import Report
from bench.workers.drain import Stub, address, start_of
from changefeed.v1 import subscribe_pb2

TABLE: Final = "public.there"
_CHANGES: Final = 1_000
_AIM_MS: Final = 1_000
_POLL_SECONDS: Final = 0.001
_LIBRARIES: Final = (
    "import grpc.aio, grpc_reflection.v1alpha.reflection, google.rpc.status_pb2, psycopg_pool, pydantic_settings, "
    "structlog, tenacity, typer, yaml"
)
"""What a gateway on PostgreSQL stands on, and nothing of ours."""
_COUNT: Final = (
    "import sys; from changefeed_gateway.cli.loading import loading\n"
    "with loading(): from changefeed_gateway.cli.main import app_for; app_for(['serve'])\n"
    "import changefeed_gateway.app.serving, changefeed_gateway.providers.postgres.provider\n"
    "print(len(sys.modules))"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m bench start`."""
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="two rounds: no figures to quote")


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    if options.quick:
        options.rounds = 2
    report = Report("start", quick=options.quick)
    with private_directory() as directory, Database(directory) as database:
        report.environment(database)
        database.make_orders(TABLE)
        database.fetch("SELECT changefeed.watch(%s)", (TABLE,))
        database.update_orders(TABLE, clients=1, transactions=_CHANGES)
        gateway = Gateway(directory, database.dsn)
        with gateway:
            _first_event(gateway)
        load = ForeignLoad()
        answers = []
        for _ in range(options.rounds):
            answers.append(_measure(gateway) | _libraries())
            report.record("start", answers[-1])
    modules = subprocess.run([sys.executable, "-c", _COUNT], capture_output=True, text=True, check=True).stdout.strip()
    report.table(
        f"A gateway that starts, {options.rounds} rounds in turn: milliseconds",
        ["", "least", "median", "most"],
        [
            _row("to the port", answers, "port_ms"),
            _row("to the first event", answers, "event_ms"),
            _row("processor time until then", answers, "gateway_cpu_ms"),
            _row("Python with the libraries alone, to its end", answers, "libraries_ms"),
            _row("its processor time", answers, "libraries_cpu_ms"),
        ],
        f"Aim: {_AIM_MS} ms to the first event. {modules} modules are loaded. {load}",
    )
    report.say(f"every figure: {report.file}")


def _measure(gateway: Gateway) -> Answer:
    began = time.perf_counter()
    gateway.launch()
    try:
        _await_port(gateway)
        port = time.perf_counter()
        _first_event(gateway)
        event = time.perf_counter()
        cpu = gateway.cpu_so_far()
    finally:
        gateway.stop()
    return {"port_ms": (port - began) * 1e3, "event_ms": (event - began) * 1e3, "gateway_cpu_ms": cpu * 1e3}


def _await_port(gateway: Gateway) -> None:
    host, _, port = gateway.target.rpartition(":")
    while gateway.running:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(_POLL_SECONDS)
    raise GatewayFailed(gateway.log_tail())


def _first_event(gateway: Gateway) -> None:
    with grpc.insecure_channel(gateway.target) as channel:
        request = subscribe_pb2.SubscribeRequest(address=address(TABLE), start_position=start_of(""), max_events=1)
        for message in Stub(channel).Subscribe(request, wait_for_ready=True):
            if message.batch.events:
                return
    raise RuntimeError("no event came")


def _libraries() -> Answer:
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", _LIBRARIES], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError("the libraries alone cannot be loaded")
    return {
        "libraries_ms": (time.perf_counter() - began) * 1e3,
        "libraries_cpu_ms": (usage.ru_utime + usage.ru_stime) * 1e3,
    }


def _row(name: str, answers: list[Answer], key: str) -> list[str]:
    values = [float(answer[key]) for answer in answers]
    return [name, f"{min(values):,.0f}", f"{median(values):,.0f}", f"{max(values):,.0f}"]
