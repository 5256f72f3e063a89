"""The official emulator answers the unmodified SDK, and a run without it says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.cloud.spanner_admin_database_v1 import DatabaseDialect

from tests.spanner import emulator
from tests.spanner.emulator import (
    GOOGLE_SQL,
    HOST_VARIABLE,
    POSTGRESQL,
    WAIVER_VARIABLE,
    Emulator,
    find_program,
    must_be_there,
)

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("dialect", [GOOGLE_SQL, POSTGRESQL])
async def test_the_emulator_has_databases_of_both_dialects(
    spanner_emulator: Emulator, dialect: DatabaseDialect
) -> None:
    name = f"smoke-{dialect.name[:6].lower()}"
    postgres = dialect == POSTGRESQL
    table = "things (id bigint PRIMARY KEY)" if postgres else "things (id INT64) PRIMARY KEY (id)"
    await spanner_emulator.create_database(
        name, [f"CREATE TABLE {table}", "CREATE CHANGE STREAM changes FOR things"], dialect=dialect
    )
    await spanner_emulator.drop_database(name)


# --- Where none is


def test_the_program_is_found_on_the_path_or_where_its_package_puts_it(tmp_path: Path) -> None:
    packaged = tmp_path / "packaged"
    nowhere = {"PATH": str(tmp_path / "empty")}
    assert find_program(nowhere, packaged) is None
    packaged.touch(mode=0o755)
    assert find_program(nowhere, packaged) == packaged
    on_path = tmp_path / "emulator_main"
    on_path.touch(mode=0o755)
    assert find_program({"PATH": str(tmp_path)}, packaged) == on_path


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, False), ({"CI": "true"}, True), ({"CI": "true", WAIVER_VARIABLE: "1"}, False), ({"CI": "false"}, False)],
)
def test_only_ci_demands_the_emulator_and_can_be_told_to_go_without(
    environment: dict[str, str], expected: bool
) -> None:
    assert must_be_there(environment) is expected


def test_without_the_emulator_a_test_is_skipped_or_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "find_program", lambda: None)
    for ci, outcome in (("false", pytest.skip.Exception), ("true", pytest.fail.Exception)):
        monkeypatch.setenv("CI", ci)
        monkeypatch.delenv(WAIVER_VARIABLE, raising=False)
        with pytest.raises(outcome, match="no Cloud Spanner emulator"):
            emulator.program_or_verdict()


def test_a_run_that_skipped_tests_says_how_many_and_why() -> None:
    reports = [
        pytest.TestReport("t", ("", 0, ""), {}, "skipped", (__file__, 1, f"Skipped: {reason}"), "setup")
        for reason in (emulator.MISSING, emulator.MISSING, "something else")
    ]
    said = emulator.closing_words({"skipped": reports})
    assert said == f"NOT TESTED on the Cloud Spanner emulator: 2 tests skipped, {emulator.MISSING}"
    assert emulator.closing_words({"skipped": reports[2:], "passed": reports}) is None


def test_a_run_without_the_emulator_says_so_in_its_last_lines(tmp_path: Path) -> None:
    (tmp_path / "no_emulator.py").write_text("import tests.spanner.emulator as e; e.find_program = lambda: None")
    kept = {name: value for name, value in os.environ.items() if name not in (WAIVER_VARIABLE, HOST_VARIABLE)}
    chosen = [f"{__file__}::test_the_emulator_has_databases_of_both_dialects", "-p", "no_emulator", "-n", "0"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *chosen],
        cwd=ROOT,
        env={**kept, "CI": "true", "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
    )
    *_, last_words, closing_line = run.stdout.splitlines()
    assert run.returncode == 1, run.stdout
    assert last_words.startswith("NOT TESTED on the Cloud Spanner emulator: 2 tests failed; set")
    assert "==" in closing_line
