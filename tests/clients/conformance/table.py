"""Scenario by language: the table that docs/clients.md keeps, and the one that a run prints."""

import re
from collections import defaultdict
from collections.abc import Iterator

import pytest

from tests.clients.conformance.language import LANGUAGES
from tests.clients.conformance.scenario import scenarios

_CASE = re.compile(r"conformance/test_scenarios\.py::test_client\[(\w+)-(.+)-(\w+)\]")
_OUTCOMES = {"error": "FAILED", "failed": "FAILED", "skipped": "did not run", "passed": "passes"}
"""The worst one first."""


def kept() -> list[list[str]]:
    """The rows of the page: every language runs every scenario."""
    return [[f"`{scenario.name}`", scenario.shows, *("passes" for _ in LANGUAGES)] for scenario in scenarios()]


def print_outcomes(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the clients did, if any was run."""
    found = _outcomes(terminalreporter)
    if not found:
        return
    terminalreporter.section("clients")
    terminalreporter.write_line("| scenario | " + " | ".join(language.name for language in LANGUAGES) + " |")
    for name, outcomes in sorted(found.items()):
        terminalreporter.write_line(f"| {name} | " + " | ".join(_cell(outcomes[_.name]) for _ in LANGUAGES) + " |")


def _outcomes(terminalreporter: pytest.TerminalReporter) -> dict[str, dict[str, set[str]]]:
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for outcome in _OUTCOMES:
        for language, scenario in _cases(terminalreporter, outcome):
            found[scenario][language].add(outcome)
    return found


def _cases(terminalreporter: pytest.TerminalReporter, outcome: str) -> Iterator[tuple[str, str]]:
    for report in terminalreporter.stats.get(outcome, ()):
        if case := _CASE.search(report.nodeid):
            yield case[1], case[2]


def _cell(outcomes: set[str]) -> str:
    return next((words for outcome, words in _OUTCOMES.items() if outcome in outcomes), "-")
