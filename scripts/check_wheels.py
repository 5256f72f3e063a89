"""Builds the wheels of the gateway and of the client and checks that nothing they need is left out.

Exits with 1 and names what is missing. Needs hatchling in the environment, no network.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parent.parent

# Project folder -> (source folder, its place in the wheel).
CONTENT = {
    "clients/python": [("gen/changefeed", "changefeed"), ("src/changefeed_client", "changefeed_client")],
    ".": [("server/changefeed_gateway", "changefeed_gateway"), ("migrations", "changefeed_gateway/migrations")],
}


def build(project: str, folder: Path) -> set[str]:
    """Build a project's wheel in an empty folder and return the names of the files in it."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", str(ROOT / project)]
    subprocess.run([*command, *options], check=True)  # noqa: S603
    (wheel,) = folder.glob("*.whl")
    with ZipFile(wheel) as archive:
        return set(archive.namelist())


def expected(project: str) -> set[str]:
    """Return the names that the wheel of a project must hold: every file of its sources but caches."""
    names: set[str] = set()
    for source, place in CONTENT[project]:
        folder = ROOT / project / source
        files = {file for file in folder.rglob("*") if file.is_file() and not _is_cache(file.relative_to(folder))}
        if not files:
            sys.exit(f"{folder} has no files")
        names |= {f"{place}/{file.relative_to(folder).as_posix()}" for file in files}
    return names | {f"{place}/py.typed" for _, place in CONTENT[project] if "/" not in place}


def _is_cache(file: Path) -> bool:
    return any(part == "__pycache__" or part.startswith(".") for part in file.parts)


def main() -> None:
    """Check both wheels."""
    for project in CONTENT:
        with tempfile.TemporaryDirectory() as folder:
            if missing := expected(project) - build(project, Path(folder)):
                sys.exit(f"the wheel of {project} lacks " + ", ".join(sorted(missing)))


if __name__ == "__main__":
    main()
