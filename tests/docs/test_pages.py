"""Pages lead somewhere, and what they list is complete."""

import re
from pathlib import Path

import psycopg
import pytest

from changefeed_gateway.settings import load_settings
from tests.databases import LOG, PostgresForTests
from tests.docs.pages import DOCS, ROOT, blocks, pages

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```$|`[^`]*`", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What a link into a page may name, as code hosts make it of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link or link.startswith("mailto:"):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_the_readme_links_every_page_of_the_top() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in DOCS.glob("*.md") if f"docs/{page.name}" not in text] == []


def test_every_decision_is_listed() -> None:
    index = (DOCS / "decisions/README.md").read_text(encoding="utf-8")
    pages = [page.name for page in (DOCS / "decisions").glob("0*.md")]
    assert [name for name in pages if f"({name})" not in index] == []


def test_files_that_architecture_walks_through_exist() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"\*\*`([\w/]+(?:\.py|/))`\*\*", text)
    assert len(named) > 10
    package = ROOT / "server/changefeed_gateway"
    assert [name for name in named if not any(package.rglob(name.rstrip("/")))] == []


async def test_the_sql_of_the_postgres_page_runs(postgres: PostgresForTests) -> None:
    watching, retyping, annotating = blocks(DOCS / "providers/postgres.md", "sql")
    sizing = re.search(r"`(select pg_size_pretty.*?)`", (DOCS / "providers/postgres.md").read_text(), re.DOTALL)
    assert sizing
    dsn = await postgres.fresh(LOG)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(
            "CREATE TABLE orders (id int PRIMARY KEY, note text); INSERT INTO orders VALUES (1);"
            "CREATE TABLE lines (order_id int NOT NULL, number int NOT NULL, PRIMARY KEY (order_id, number));"
            "CREATE TABLE events (code text NOT NULL UNIQUE, state text, note text)"
        )
        for block in (watching, retyping, annotating):
            await connection.execute(block.text.encode())
        feeds = await (await connection.execute("SELECT name, state FROM changefeed.feed_states()")).fetchall()
        assert feeds == [("public.events", "capturing"), ("public.orders", "capturing")]
        changes = await (await connection.execute("SELECT image, annotations FROM changefeed_log.log_1")).fetchall()
        assert changes == [('{"id":1,"note":"paid"}', '{"actor": "ann"}')]
        size = await (await connection.execute(sizing[1].encode())).fetchone()
        assert size
        assert size[0]
    await postgres.drop(dsn)


def test_every_edge_of_postgres_names_tests_that_exist() -> None:
    page = (DOCS / "providers" / "postgres.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "postgres").glob("test_*.py"))
    assert named
    assert named <= set(re.findall(r"^async def (test_\w+)", code, re.MULTILINE))


def test_every_promise_of_the_security_page_names_tests_that_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (DOCS / "security.md").read_text(encoding="utf-8")))
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 15
    assert [name for name in named if f"def {name}(" not in code] == []


def test_the_settings_of_the_security_page_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (example,) = blocks(DOCS / "security.md", "yaml")
    monkeypatch.chdir(tmp_path)
    Path("changefeed.yaml").write_text(example.text, encoding="utf-8")
    assert load_settings().security.asks_who_calls
