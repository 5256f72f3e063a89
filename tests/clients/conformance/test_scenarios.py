"""Every client passes every scenario: docs/clients.md has the table, and what another language's client needs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conformance.language import CLIENTS, LANGUAGES, PYTHON_AT_ITS_FLOOR, Language
from tests.clients.conformance.scenario import Scenario, scenarios
from tests.clients.conformance.stage import Stage
from tests.conformance.backend import Backend
from tests.conformance.backends.memory import COMPLETE, MemoryBackend
from tests.conformance.backends.postgres import WatchedTableBackend


def cases() -> Iterator[object]:
    """Every scenario on each of its gateways, for each language; a language's run side by side with the others'."""
    for language in LANGUAGES:
        for scenario in scenarios():
            for gateway in scenario.gateways:
                yield pytest.param(
                    language,
                    scenario,
                    gateway,
                    id=f"{language.name}-{scenario.name}-{gateway}",
                    marks=pytest.mark.xdist_group(f"client-{language.name}"),
                )


@pytest.fixture(scope="session")
def built() -> dict[str, str]:
    """What is wrong with each language that was built; empty where it is ready."""
    return {}


def ready(language: Language, built: dict[str, str]) -> None:
    """Build a language's programs once. A missing toolchain is named, and on CI it is a failure."""
    if language.name not in built:
        if missing := language.missing():
            built[language.name] = f"{language.name} cannot run: {', '.join(missing)} is not installed"
        else:
            language.make()
            built[language.name] = ""
    if built[language.name]:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(built[language.name])


@pytest.mark.parametrize(
    "language",
    [
        pytest.param(one, id=one.name, marks=pytest.mark.xdist_group(f"client-{one.name}"))
        for one in LANGUAGES
        if one.own_tests
    ],
)
def test_a_language_passes_its_own_tests(language: Language, built: dict[str, str]) -> None:
    ready(language, built)
    language.test()


def test_a_lock_file_names_no_registry() -> None:
    """Who installs chooses it."""
    assert '"resolved"' not in (CLIENTS / "typescript/package-lock.json").read_text()


@pytest.fixture
def backend(request: pytest.FixtureRequest, gateway: str) -> Backend | None:
    match gateway:
        case "memory":
            return MemoryBackend(COMPLETE)
        case "postgres":
            return WatchedTableBackend(request.getfixturevalue("postgres"))
        case _:
            return None


@pytest.mark.req("BX-7", "A2")
@pytest.mark.parametrize(("language", "scenario", "gateway"), list(cases()))
async def test_client(
    language: Language,
    scenario: Scenario,
    backend: Backend | None,
    built: dict[str, str],
    tmp_path: Path,
) -> None:
    ready(language, built)
    await Stage(scenario, language, backend, tmp_path).play()


@pytest.mark.parametrize("gateway", ["memory", "scripted"])
async def test_python_client_at_its_floor(gateway: str, backend: Backend | None, tmp_path: Path) -> None:
    """Every call, message and error once, with the oldest grpcio and protobuf; the other runs have the newest."""
    name = "error-categories" if gateway == "memory" else "tls-and-bearer"
    [scenario] = [one for one in scenarios() if one.name == name]
    await Stage(scenario, PYTHON_AT_ITS_FLOOR, backend, tmp_path).play()
