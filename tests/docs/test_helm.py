"""The chart: what it gives is what was checked, and the gateway in it is one that starts and is asked where it answers.

Helm's engine takes two minutes to build. So `make helm-check` renders, holds the result against the schemas of
Kubernetes and keeps it in tests/helm/rendered; here it is looked at, and whether the chart is still the same.
"""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from changefeed_gateway.settings import Settings, load_settings
from tests.docs.pages import DOCS, ROOT, blocks, rows

CHART = ROOT / "deploy/helm/changefeed"
HELM = ROOT / "tests/helm"
NAMES = ("least", "all")


def manifests(name: str) -> dict[str, dict[str, Any]]:
    """By kind; another of that kind by its name."""
    found: dict[str, dict[str, Any]] = {}
    for manifest in filter(None, yaml.safe_load_all((HELM / f"rendered/{name}.yaml").read_text(encoding="utf-8"))):
        found[manifest["metadata"]["name"] if manifest["kind"] in found else manifest["kind"]] = manifest
    return found


def pod(name: str) -> dict[str, Any]:
    return dict(manifests(name)["Deployment"]["spec"]["template"]["spec"])


def settings(name: str, monkeypatch: pytest.MonkeyPatch, directory: Path) -> Settings:
    """As the gateway reads them."""
    for variable in ("CHANGEFEED_CONFIG", "CHANGEFEED_LISTEN"):
        monkeypatch.delenv(variable, raising=False)
    file = directory / "changefeed.yaml"
    file.write_text(manifests(name)["ConfigMap"]["data"]["changefeed.yaml"])
    return load_settings(file)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_checked_is_what_the_chart_gives_today(name: str) -> None:
    digest = subprocess.run([HELM / "digest"], capture_output=True, text=True, check=True).stdout.strip()
    said = (HELM / f"rendered/{name}.yaml").read_text(encoding="utf-8").splitlines()[1]
    assert said == f"# chart: {digest}", "the chart has changed: make helm-check"


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_are_those_that_the_pod_and_its_probes_expect(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read = settings(name, monkeypatch, tmp_path)
    (container,) = pod(name)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert read.monitoring.listen is not None
    assert ports == {"grpc": read.listen.port, "monitoring": read.monitoring.listen.port}
    assert {container[f"{probe}Probe"]["httpGet"]["port"] for probe in ("startup", "liveness", "readiness")} == {
        "monitoring"
    }
    notice = container["lifecycle"]["preStop"]["sleep"]["seconds"] if "lifecycle" in container else 0
    assert pod(name)["terminationGracePeriodSeconds"] > notice + read.shutdown_grace.total_seconds() + 5
    annotations = manifests(name)["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(read.monitoring.listen.port)
    (port,) = manifests(name)["Service"]["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (read.listen.port, "grpc")


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_the_settings_name_is_mounted_from_a_secret(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (container,) = pod(name)["containers"]
    places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    files = set()
    for volume in pod(name)["volumes"]:
        place = places.pop(volume["name"])
        for source in volume.get("projected", {"sources": []})["sources"]:
            files |= {f"{place}/{item['path']}" for item in source["secret"]["items"]}
        if "secret" in volume:
            files |= {f"{place}/{file}" for file in ("tls.crt", "tls.key", "ca.crt")}
    assert not places, "each mount has its volume"
    text = settings(name, monkeypatch, tmp_path).model_dump_json()
    named = {part for part in text.split('"') if part.startswith("/run/")}
    assert len(named) > 3
    assert named <= files


@pytest.mark.parametrize("name", NAMES)
def test_one_name_has_every_pod_for_who_lists_the_streams_ready_or_not(name: str) -> None:
    service, every = manifests(name)["Service"]["spec"], manifests(name)["changefeed-replicas"]["spec"]
    assert every["clusterIP"] == "None", "it has the addresses of the pods"
    assert every["publishNotReadyAddresses"], "a pod whose database is away has streams too"
    assert (every["selector"], every["ports"]) == (service["selector"], service["ports"])
    assert "changefeed-replicas.NAMESPACE.svc" in (DOCS / "kubernetes.md").read_text(encoding="utf-8")


def test_readiness_may_ask_for_some_connections_alone() -> None:
    (container,) = pod("all")["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz?connection=orders&connection=shop"


@pytest.mark.parametrize("name", NAMES)
def test_the_chart_adds_nothing_of_its_own_that_would_not_start(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Helm merges mappings of values with the chart's own."""
    given = yaml.safe_load((HELM / f"values-{name}.yaml").read_text(encoding="utf-8"))
    assert set(settings(name, monkeypatch, tmp_path).connections) == set(given["settings"]["connections"])
    (volume,) = [volume for volume in pod(name)["volumes"] if volume["name"] == "secrets"]
    files = {item["path"] for source in volume["projected"]["sources"] for item in source["secret"]["items"]}
    assert files == set(given["secrets"])
    budget = manifests(name)["PodDisruptionBudget"]["spec"]
    assert len({"minAvailable", "maxUnavailable"} & set(budget)) == 1, "Kubernetes takes one of them"
    (container,) = pod(name)["containers"]
    # Kubernetes before 1.33 takes none of no length (KEP-3960, PodLifecycleSleepActionAllowZero).
    assert container.get("lifecycle", {"preStop": {"sleep": {"seconds": 1}}})["preStop"]["sleep"]["seconds"] > 0


def test_what_would_not_be_as_it_was_meant_is_refused_and_helm_check_asks_so() -> None:
    assert {file.stem for file in (HELM / "refused").glob("*.yaml")} >= {
        "client-ca-in-plaintext",
        "no-connection",
        "monitoring-port-of-root",
        "no-transport",
        "ready-when-nothing",
        "secret-not-named",
        "service-port-of-root",
    }
    assert "tests/helm/refused/*.yaml" in (HELM / "check").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_pods_may_nothing(name: str) -> None:
    workloads = [pod(name)]
    if "Job" in manifests(name):
        workloads.append(manifests(name)["Job"]["spec"]["template"]["spec"])
    for spec in workloads:
        assert spec["securityContext"]["runAsNonRoot"]
        assert not spec["automountServiceAccountToken"]
        (container,) = spec["containers"]
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}
    assert "Secret" not in manifests(name), "secrets are named, and not made"


def test_what_is_scaled_by_is_a_metric_of_the_gateway_and_the_page_says_how() -> None:
    (metric,) = manifests("all")["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "changefeed_streams"
    (rule,) = [block for block in blocks(DOCS / "kubernetes.md", "yaml") if "seriesQuery" in block.text]
    assert yaml.safe_load(rule.text)["rules"]["custom"][0]["name"]["matches"] == "changefeed_streams"
    assert "replicas" not in manifests("all")["Deployment"]["spec"], "the autoscaler's to say"


def test_every_value_is_described_and_no_other() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    described = {
        name.strip(" `") for row in rows(DOCS / "kubernetes.md") if len(row) == 3 for name in row[0].split("`, `")
    }
    assert set(values) <= described
    assert described - set(values) <= {"startup", "liveness", "readiness"}
