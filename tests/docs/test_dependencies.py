"""docs/dependencies.md names every package, and its licence as its own metadata has it."""

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import metadata

import pytest

from tests.docs.pages import DOCS, ROOT, rows

PAGE = DOCS / "dependencies.md"
PROJECTS = ("pyproject.toml", "clients/python/pyproject.toml")
OURS = "changefeed-gateway"
SPELLINGS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD-3-Clause": "BSD-3-Clause",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
}
"""Older metadata has no SPDX expression."""


def needed(*, to_run: bool) -> set[str]:
    """Names of the packages that the projects ask for, to run or to build and test."""
    return {name for project in PROJECTS for name in _of_project(project, to_run=to_run)} - {OURS}


def _of_project(path: str, *, to_run: bool) -> Iterator[str]:
    content = tomllib.loads((ROOT / path).read_text(encoding="utf-8"))
    extras = content["project"].get("optional-dependencies", {})
    groups = {"": content["project"]["dependencies"], "build": content["build-system"]["requires"], **extras}
    for group, requirements in groups.items():
        if to_run != (group in ("build", "dev")):
            yield from (re.split(r"[^\w.-]", requirement)[0] for requirement in requirements)


def generator() -> set[str]:
    """What the generator's own environment adds beside what is named elsewhere."""
    lines = (ROOT / "constraints-gen.txt").read_text(encoding="utf-8").splitlines()
    return {line.split("==")[0] for line in lines if line.startswith(("grpcio-tools", "mypy-protobuf"))}


def named() -> dict[str, list[str]]:
    """Rows by package."""
    return {name: row for row in rows(PAGE) for name in re.findall(r"`([\w.-]+)`", row[0])}


def licence(package: str) -> str:
    """As the installed package says."""
    content = metadata(package)
    if expression := content.get_all("License-Expression", []):
        return str(expression[0])
    said = [*content.get_all("Classifier", []), *content.get_all("License", [])]
    if "Apache-2.0" in said:
        return "Apache-2.0"
    return next(SPELLINGS[words] for words in said if words in SPELLINGS)


@pytest.mark.req("A4")
def test_every_package_is_named() -> None:
    assert len(needed(to_run=True)) > 10
    assert needed(to_run=True) | needed(to_run=False) | generator() <= set(named())


@pytest.mark.parametrize("package", sorted(needed(to_run=True)))
def test_a_runtime_package_says_what_why_and_its_licence(package: str) -> None:
    _, what_for, why, said = named()[package]
    assert what_for
    assert why
    assert said == licence(package)
