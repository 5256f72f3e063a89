"""docs/clients.md keeps the table of the conformance run."""

from tests.clients.conformance.language import LANGUAGES
from tests.clients.conformance.table import kept
from tests.docs.pages import DOCS, rows

PAGE = DOCS / "clients.md"


def test_the_page_has_every_scenario_and_every_language() -> None:
    wide = 2 + len(LANGUAGES)
    assert [row for row in rows(PAGE) if len(row) == wide and row[-1] == "passes"] == kept()
    head = "| scenario | shows | " + " | ".join(language.name for language in LANGUAGES) + " |"
    assert head in PAGE.read_text(encoding="utf-8")
