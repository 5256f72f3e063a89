"""A scenario: what a client must do, as data that any language's run reads."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "scenarios"
GATEWAYS = ("memory", "postgres", "scripted")

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One file of the folder; docs/clients.md says what its steps mean."""

    name: str
    shows: str
    gateways: list[str]
    steps: list[Json]
    scripts: list[list[Json]] = field(default_factory=list)
    """What a scripted gateway says, a list a stream."""
    tls: bool = False


def scenarios() -> list[Scenario]:
    """All of them, by name."""
    found = [Scenario(name=file.stem, **json.loads(file.read_text())) for file in sorted(FOLDER.glob("*.json"))]
    assert all(set(scenario.gateways) <= set(GATEWAYS) and scenario.gateways for scenario in found)
    return found
