"""What deploy/ holds is held against a gateway that runs: every metric exists, every rule and expression is one."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import grpc
import promql_parser
import psycopg
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from changefeed.v1.change_feed_service_pb2_grpc import ChangeFeedServiceStub
from changefeed.v1.subscribe_pb2 import SubscribeRequest
from changefeed_client import BEGINNING, NOW, ChangeFeedRpcError, collection
from changefeed_gateway.providers.postgres.operations.feeds import watch
from changefeed_gateway.settings import MemoryConnection, PostgresConnection
from tests.databases import LOG, PostgresForTests
from tests.docs.pages import DOCS, ROOT
from tests.monitored import Monitored, monitored, until

ALERTS = ROOT / "deploy/prometheus/alerts.yaml"
DASHBOARD = ROOT / "deploy/grafana/changefeed.json"
OPERATIONS = DOCS / "operations.md"
OF_PROMETHEUS = {"up": {"job", "instance"}}
"""Which it makes itself, and the labels that it gives to everything."""
VARIABLES = {"$__rate_interval": "5m", "$connection": "main", "$collection": "public.orders"}
"""Of the dashboard, and what stands for them here."""

Duration = Annotated[str, Field(pattern=r"^(\d+(ms|[smhdwy]))+$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Annotations(_Strict):
    summary: str
    runbook_url: str


class Labels(_Strict):
    severity: Literal["page", "ticket"]


class Rule(_Strict):
    """An alerting rule, as Prometheus' rulefmt has it."""

    alert: Annotated[str, Field(pattern=r"^[a-zA-Z_]\w*$")]
    expr: str
    for_: Annotated[Duration | None, Field(alias="for")] = None
    labels: Labels
    annotations: Annotations


class Group(_Strict):
    name: str
    rules: list[Rule]


class RuleFile(_Strict):
    groups: list[Group]


def rules() -> list[Rule]:
    content = RuleFile.model_validate(yaml.safe_load(ALERTS.read_text(encoding="utf-8")))
    return [rule for group in content.groups for rule in group.rules]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def expressions() -> list[str]:
    """Those of all alerts and panels."""
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]
    for variable, value in VARIABLES.items():
        shown = [expression.replace(variable, value) for expression in shown]
    return [*(rule.expr for rule in rules()), *shown]


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics of an expression, each with the labels by which it is chosen. Raises ValueError if it is none."""
    found: list[tuple[str, set[str]]] = []

    def visit(node: Any) -> bool:
        # The package says so of matrix selectors too, by what is in them.
        selector = getattr(node, "vector_selector", node)
        if isinstance(selector, promql_parser.VectorSelector):
            found.append((selector.name or "", {matcher.name for matcher in selector.matchers.matchers}))
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    yield from found


@pytest.fixture(scope="module")
async def labels_of(postgres: PostgresForTests) -> dict[str, set[str]]:
    """What a gateway on PostgreSQL shows after some traffic: the labels of each metric."""
    dsn = await postgres.fresh(LOG)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("CREATE TABLE orders (id int PRIMARY KEY)")
        await watch(dsn, "public.orders")
        await connection.execute("INSERT INTO orders VALUES (1)")
    async with monitored({"main": PostgresConnection(dsn=SecretStr(dsn))}) as gateway:
        shown = await _after_traffic(gateway)
    await postgres.drop(dsn)
    return shown


async def _after_traffic(gateway: Monitored) -> dict[str, set[str]]:
    orders = collection("main/public.orders")
    await gateway.client.read_page(orders, BEGINNING)
    with pytest.raises(ChangeFeedRpcError):
        await gateway.client.read_page(collection("main/nothing"), BEGINNING)
    async with grpc.aio.insecure_channel(gateway.gateway.target) as channel:
        request = SubscribeRequest(address=orders, start_position=BEGINNING, max_events=1)
        assert [message async for message in ChangeFeedServiceStub(channel).Subscribe(request)]
    async with gateway.client.tail(orders, NOW) as tail:
        await anext(aiter(tail))

        async def followed() -> bool:
            return await gateway.value("changefeed_stream_lag_seconds") is not None

        await until(followed)
        shown: dict[str, set[str]] = {}
        for sample in await gateway.samples():
            shown.setdefault(sample.name, set()).update(sample.labels)
        return shown


def test_every_expression_is_one_and_names_metrics() -> None:
    assert len(expressions()) > 50
    for expression in expressions():
        assert list(selectors(expression)), expression


def test_what_is_no_expression_is_found() -> None:
    for broken in ("rate(changefeed_calls_total)", "sum by (x", "up = 1", "changefeed_calls_total[5m] > 1"):
        with pytest.raises(ValueError, match=r"."):
            list(selectors(broken))


async def test_the_first_error_that_an_alert_counts_is_seen_to_come() -> None:
    """`increase` passes over a series that begins with its first count (Prometheus, "Avoid missing metrics")."""
    memory = MemoryConnection(provider="memory")
    async with monitored({"main": memory}) as gateway:
        shown = {(sample.name, sample.labels.get("reason")) for sample in await gateway.samples()}
    counted = [
        (metric, reason)
        for rule in rules()
        for metric, reasons in re.findall(r'increase\((\w+)\{reason=~?"([^"]+)"', rule.expr)
        for reason in reasons.split("|")
    ]
    assert ("changefeed_call_errors_total", "HISTORY_GAP") in counted
    assert set(counted) <= shown


async def test_every_metric_of_alerts_and_dashboard_is_shown_with_its_labels(labels_of: dict[str, set[str]]) -> None:
    known = labels_of | OF_PROMETHEUS
    used = [found for expression in expressions() for found in selectors(expression)]
    assert {name for name, _ in used} - set(known) == set()
    for name, chosen in used:
        assert chosen <= known[name] | OF_PROMETHEUS["up"], name


async def test_every_metric_that_is_shown_is_described(labels_of: dict[str, set[str]]) -> None:
    section = OPERATIONS.read_text(encoding="utf-8").split("## Monitoring\n")[1].split("\n## ")[0]
    described = set(re.findall(r"`([a-z_]+(?:_seconds|_total|_bytes|[a-z]))`", section))
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in labels_of if name.startswith("changefeed_")}
    missing = {name for name in shown if name.removeprefix("changefeed_") not in described}
    assert missing == {"changefeed_ring_limit_bytes", "changefeed_page_limit_bytes"}, "described by their ending"


def test_every_alert_has_its_paragraph_and_no_paragraph_lacks_its_alert() -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    assert set(re.findall(r"^### (Changefeed\w+)$", text, re.MULTILINE)) == {rule.alert for rule in rules()}
    for rule in rules():
        page, _, anchor = rule.annotations.runbook_url.partition("#")
        assert (ROOT / page, anchor) == (OPERATIONS, rule.alert.lower())
        paragraph = text.split(f"### {rule.alert}\n")[1].split("\n#")[0]
        assert len(paragraph.split()) > 25, rule.alert


def test_panels_and_their_queries_are_apart() -> None:
    ids = [panel["id"] for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels():
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs)), panel["title"]


def test_the_rules_are_those_that_prometheus_is_given() -> None:
    given = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yaml").read_text(encoding="utf-8"))
    directory = Path("deploy/prometheus")
    assert [ROOT / directory / name for name in given["rule_files"]] == [ALERTS]
    assert {job["job_name"] for job in given["scrape_configs"]} == {"changefeed"}, "the alerts' up{job}"
