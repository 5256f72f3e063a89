"""(d) What TLS, web tokens, a policy, metrics and traces cost: a gateway with all of them beside a bare one."""

import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

import grpc

from bench.database import Database
from bench.drain import ORDERS
from bench.figures import median, spread
from bench.gateway import Gateway, free_port
from bench.latency import Latency
from bench.processes import Answer, ForeignLoad, run_worker
from bench.report import Report
from tests.api.issuers import Authority, Issuer

AIM: Final = 0.85
"""Of what the bare gateway does in the same round."""
SIDES: Final = ("bare", "guarded")
_OTHER_GRANTS: Final = 50
_SCRAPE_SECONDS: Final = 5.0
_TOKEN_SECONDS: Final = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Guards:
    """Settings with everything on, and what callers need to pass."""

    settings: dict[str, Any]
    credentials: dict[str, str]
    """For workers: `ca_file`, a certificate to trust, and `bearer`, a web token."""
    monitoring: str
    """host:port of the metrics."""

    @classmethod
    def made_in(cls, directory: Path, collector: str) -> Self:
        """Make certificates, keys and a token; every trace goes to the collector."""
        authority, issuer = Authority("bench CA"), Issuer()
        pair = authority.server()
        files = {"ca.pem": authority.pem, "gateway.pem": pair.chain, "gateway.key": pair.key, "jwks": issuer.key_set()}
        for name, content in files.items():
            (directory / name).write_bytes(content)
        others = [
            {"principals": [f"jwt:other-{number}", f"group:team-{number}"], "connections": ["main"]}
            for number in range(_OTHER_GRANTS)
        ]
        monitoring = f"127.0.0.1:{free_port()}"
        settings = {
            "security": {
                "tls": {
                    "certificate_file": str(directory / "gateway.pem"),
                    "key_file": str(directory / "gateway.key"),
                },
                "jwt": {
                    "issuer": issuer.issuer,
                    "audience": issuer.audience,
                    "jwks_file": str(directory / "jwks"),
                },
                "policy": [*others, {"principals": ["jwt:bench"], "connections": ["main"]}],
            },
            "monitoring": {"listen": monitoring},
            "tracing": {"endpoint": collector, "share": 1},
        }
        bearer = issuer.token(sub="bench", groups=["readers"], lives=_TOKEN_SECONDS)
        credentials = {"ca_file": str(directory / "ca.pem"), "bearer": bearer}
        return cls(settings=settings, credentials=credentials, monitoring=monitoring)

    @property
    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For a channel that makes no calls."""
        return grpc.ssl_channel_credentials(Path(self.credentials["ca_file"]).read_bytes())


class Collector:
    """Takes what OTLP sends over HTTP, and counts it."""

    def __init__(self) -> None:
        self.requests = self.bytes = 0
        counting = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                counting.requests += 1
                counting.bytes += len(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint: Final = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def scraped(address: str) -> Iterator[list[int]]:
    """Read metrics every few seconds, as Prometheus does; answers the sizes of what came."""
    sizes: list[int] = []
    stop = threading.Event()

    def scrape() -> None:
        while not stop.wait(_SCRAPE_SECONDS):
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as page:
                sizes.append(len(page.read()))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield sizes
    finally:
        stop.set()
        thread.join()


@dataclass
class _Way:
    """One way to read stored changes, through either gateway."""

    name: str
    run: Callable[[str], Answer]
    rounds: dict[str, list[Answer]] = field(default_factory=lambda: {side: [] for side in SIDES})

    def rates(self, side: str) -> list[float]:
        return [answer["events"] / answer["seconds"] for answer in self.rounds[side]]

    def share(self) -> float:
        """Of the bare gateway's rate in the same round, the median."""
        pairs = zip(self.rates("guarded"), self.rates("bare"), strict=True)
        return median([guarded / bare for guarded, bare in pairs])

    def microseconds(self, side: str, whose: str) -> float:
        return float(median([answer[whose] / answer["events"] * 1e6 for answer in self.rounds[side]]))


class Guarded:
    """Two gateways on one database, read in turn by the same clients."""

    def __init__(self, database: Database, report: Report) -> None:
        self._database, self._report = database, report
        self._others = ForeignLoad()

    def run(self, events: int, rounds: int, rates: list[int], seconds: float, latency_rounds: int) -> None:
        """Measure and print."""
        places = {side: self._database.directory / side for side in SIDES}
        for place in places.values():
            place.mkdir()
        with Collector() as collector:
            guards = Guards.made_in(places["guarded"], collector.endpoint)
            bare = Gateway(places["bare"], self._database.dsn)
            guarded = Gateway(
                places["guarded"],
                self._database.dsn,
                settings=guards.settings,
                credentials=guards.channel_credentials,
            )
            with bare, guarded, scraped(guards.monitoring) as scrapes:
                gateways = {"bare": bare, "guarded": guarded}
                self._drain(gateways, guards, events, rounds)
                self._latency(gateways, guards, rates, seconds, latency_rounds)
        if not collector.requests or not scrapes:
            raise RuntimeError("the guarded gateway was not watched: no traces or no metrics came")
        self._report.say(
            f"watched: {collector.requests} requests with {collector.bytes:,} bytes of traces, {len(scrapes)} looks at "
            f"{max(scrapes):,} bytes of metrics"
        )

    def _drain(self, gateways: dict[str, Gateway], guards: Guards, events: int, rounds: int) -> None:
        def job(side: str, **more: object) -> dict[str, object]:
            own = {"credentials": guards.credentials} if side == "guarded" else {}
            return {"target": gateways[side].target, "collection": ORDERS, "events": events, **own, **more}

        ways = [
            _Way("Subscribe", lambda side: run_worker("drain.subscribe", job(side))),
            _Way("ReadChanges 1000", lambda side: run_worker("drain.read", job(side, page_size=1_000))),
            _Way("ReadChanges 5000", lambda side: run_worker("drain.read", job(side, page_size=5_000))),
        ]
        for number in range(rounds):
            for way in ways:
                for side in _turned(number):
                    cpu = gateways[side].cpu()
                    answer = way.run(side)
                    answer["gateway_cpu"] = cpu.seconds()
                    way.rounds[side].append(answer)
                    self._report.record("guarded drain", {"way": way.name, "side": side, "round": number, **answer})
        contents = {answer["content"] for way in ways for side in SIDES for answer in way.rounds[side]}
        self._report.table(
            f"(d) Drain of {events} stored changes, bare and with everything on, {rounds} rounds in turn",
            ["", "events/s", "spread", "of bare", "client us", "gateway us"],
            [_drain_row(way, side) for way in ways for side in SIDES],
            f"Everything: TLS, web tokens, {_OTHER_GRANTS + 1} grants, metrics read every {_SCRAPE_SECONDS:.0f} s, "
            f"every trace sent. Of bare: the median of the rounds' own ratios; aim {AIM}.",
            "All delivered the same content." if len(contents) == 1 else f"CONTENT DIFFERS: {sorted(contents)}",
            str(self._others),
        )

    def _latency(
        self, gateways: dict[str, Gateway], guards: Guards, rates: list[int], seconds: float, rounds: int
    ) -> None:
        listeners = {
            "bare": Latency(self._database, gateways["bare"], self._report),
            "guarded": Latency(self._database, gateways["guarded"], self._report, guards.credentials),
        }
        rows = []
        for rate in rates:
            answers: dict[str, list[Answer]] = {side: [] for side in SIDES}
            for number in range(rounds):
                for side in _turned(number):
                    answer = listeners[side].measure(rate, seconds, number)
                    self._report.record("guarded latency", {"side": side, **answer})
                    answers[side].append(answer)
            rows += [_latency_row(rate, side, answers) for side in SIDES]
        self._report.table(
            f"(d) From just before the UPDATE to the handler, {seconds:.0f} s, {rounds} rounds in turn: milliseconds",
            ["", "p50", "p95", "p99", "bare p50 of it", "gateway cores", "UPDATE answered p50"],
            rows,
            str(self._others),
        )


def _turned(number: int) -> tuple[str, ...]:
    """Who goes first changes from round to round."""
    return SIDES if number % 2 == 0 else SIDES[::-1]


def _drain_row(way: _Way, side: str) -> list[str]:
    return [
        f"{way.name}, {side}",
        f"{median(way.rates(side)):,.0f}",
        f"{spread(way.rates(side)):.0%}",
        f"{way.share():.2f}" if side == "guarded" else "",
        f"{way.microseconds(side, 'client_cpu'):.2f}",
        f"{way.microseconds(side, 'gateway_cpu'):.2f}",
    ]


def _latency_row(rate: int, side: str, answers: dict[str, list[Answer]]) -> list[str]:
    own = answers[side]
    heard = [median([answer["handler"][name] for answer in own]) for name in ("p50", "p95", "p99")]
    pairs = zip(answers["bare"], answers["guarded"], strict=True)
    share = median([bare["handler"]["p50"] / guarded["handler"]["p50"] for bare, guarded in pairs])
    return [
        f"{rate}/s, {side}",
        *(f"{value:.2f}" for value in heard),
        f"{share:.2f}" if side == "guarded" else "",
        f"{median([answer['gateway_cores'] for answer in own]):.2f}",
        f"{median([answer['writer']['p50'] for answer in own]):.2f}",
    ]
