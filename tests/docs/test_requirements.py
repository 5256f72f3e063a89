"""docs/requirements.md and the markers of the tests say the same."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, rows

PAGE = DOCS / "requirements.md"
TESTS = ROOT / "tests"
STATES = ("shown", "partly", "later")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One row."""

    id: str
    files: tuple[str, ...]
    """Test files that it names, from `tests/`."""
    state: str


def requirements() -> list[Requirement]:
    """The rows of the page."""
    return [
        Requirement(id=row[0], files=tuple(re.findall(r"`([\w/]+\.py)`", row[3])), state=re.split(r"\W", row[4])[0])
        for row in rows(PAGE)
        if len(row) == 5
    ]


@cache
def markers() -> frozenset[tuple[str, str]]:
    """Every id in a marker, with the file that carries it."""
    return frozenset(_markers())


def _markers() -> Iterator[tuple[str, str]]:
    for file in sorted(TESTS.rglob("test_*.py")):
        text = file.read_text(encoding="utf-8")
        if "mark.req" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.req":
                for argument in node.args:
                    assert isinstance(argument, ast.Constant), f"{file}: write the ids out"
                    yield str(argument.value), file.relative_to(TESTS).as_posix()


def test_every_marker_has_a_row() -> None:
    known = {requirement.id for requirement in requirements()}
    assert {(name, file) for name, file in markers() if name not in known} == set()


def test_ids_differ() -> None:
    ids = [requirement.id for requirement in requirements()]
    assert len(set(ids)) == len(ids) > 50


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.id)
def test_a_row_tells_the_truth(requirement: Requirement) -> None:
    assert requirement.state in STATES
    assert requirement.files
    assert all((TESTS / file).is_file() for file in requirement.files)
    carriers = {file for name, file in markers() if name == requirement.id}
    if requirement.state == "later":
        return
    assert set(requirement.files) <= carriers, "a file that is named carries the marker"


def test_what_is_named_as_built_exists() -> None:
    for row in rows(PAGE):
        for place in re.findall(r"`([\w./*-]+/[\w./*-]*|pyproject\.toml)`", row[2] if len(row) == 5 else ""):
            roots = (ROOT, ROOT / "server/changefeed_gateway")
            assert any(any(root.glob(place.rstrip("/"))) for root in roots), place


@pytest.mark.req("A5")
def test_the_top_level_is_as_agreed() -> None:
    for folder in ("proto", "server", "clients", "migrations", "tests"):
        assert (ROOT / folder).is_dir()
    for file in ("buf.yaml", "Dockerfile"):
        assert Path(ROOT / file).is_file()
