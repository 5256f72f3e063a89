"""Reads the project's pages: their blocks of code, their tables, their links."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CELL = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of code."""

    language: str
    text: str


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of some languages in their order."""
    found = [Block(language=language, text=text) for language, text in _FENCE.findall(page.read_text(encoding="utf-8"))]
    return [block for block in found if block.language in languages]


def rows(page: Path) -> list[list[str]]:
    """Every row of every table, its cells stripped; headings and rules left out."""
    found: list[list[str]] = []
    lines = [line.strip() for line in page.read_text(encoding="utf-8").splitlines()]
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        is_heading = following.startswith("|--") or following.startswith("| --")
        if line.startswith("|") and not is_heading and not set(line) <= set("|- :"):
            found.append([cell.strip() for cell in _CELL.split(line.strip("|"))])
    return found


def pages() -> list[Path]:
    """Every page of the project."""
    hidden = {
        ".venv",
        ".venv-gen",
        ".venv-pins",
        ".venv-release",
        ".venv-image",
        ".venv-lowest",
        ".helm",
        ".git",
        ".pytest_cache",
        "node_modules",
        "dist",
    }
    return [page for page in sorted(ROOT.rglob("*.md")) if not hidden & set(page.relative_to(ROOT).parts)]
