"""The languages whose clients are run: what each needs, how it is built, and what its programs are."""

import fcntl
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
BUILT = ROOT / ".clients"
"""Programs of the languages that compile; kept, and made anew by their own tools when something changed."""
CLIENTS = ROOT / "clients"


@dataclass(frozen=True, kw_only=True)
class Language:
    """One client."""

    name: str
    tools: tuple[str, ...]
    """Programs that must be installed."""
    build: tuple[tuple[Path, tuple[str, ...]], ...] = ()
    """Commands, each in its folder."""
    program: tuple[str, ...]
    """Takes orders as arguments and prints a line of JSON for all it sees."""
    mirror: tuple[str, ...]
    """The example: takes collection and file."""
    own_tests: tuple[tuple[str, ...], ...] = ()
    """Commands that show what the driver does not, in the folder of the last build."""
    fast_build: tuple[tuple[Path, tuple[str, ...]], ...] = ()
    """Commands that build the program to be measured, where that takes longer than the tests' build."""
    fast_program: tuple[str, ...] = ()
    """The program to be measured, where it is another one."""

    def missing(self) -> list[str]:
        """Tools that this machine lacks."""
        return [tool for tool in self.tools if shutil.which(tool) is None]

    def make(self) -> None:
        """Build the programs; of several processes one builds, and the others find nothing to do."""
        self._make(self.build)

    def make_fast(self) -> tuple[str, ...]:
        """Build the program as its users build theirs; answers its command."""
        self._make(self.fast_build or self.build)
        return self.fast_program or self.program

    def _make(self, commands: tuple[tuple[Path, tuple[str, ...]], ...]) -> None:
        BUILT.mkdir(exist_ok=True)
        with (BUILT / f"{self.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for folder, command in commands:
                _run(folder, command)

    def test(self) -> None:
        """Run its own tests; a command that complains of files fails too."""
        for command in self.own_tests:
            said = _run(self.build[-1][0], command)
            assert command[0] != "gofmt" or not said, f"go fmt would change {said}"


def _run(folder: Path, command: tuple[str, ...]) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


GO = CLIENTS / "go"
JAVA = CLIENTS / "java"
TYPESCRIPT = CLIENTS / "typescript"
RUST = CLIENTS / "rust"
PYTHON = CLIENTS / "python"

_CARGO = ("env", f"CARGO_TARGET_DIR={BUILT}/rust", "cargo")

PYTHON_AT_ITS_FLOOR = Language(
    name="PythonAtItsFloor",
    tools=(),
    program=(
        *("env", f"PYTHONPATH={PYTHON / 'src'}:{PYTHON / 'gen'}", str(ROOT / ".venv-gen/bin/python")),
        str(PYTHON / "conformance/program.py"),
    ),
    mirror=(),
)
"""The oldest packages that the client takes, without the server's: the generator's own environment has them."""

_MAVEN = ("mvn", "--batch-mode", "--quiet", "-DskipTests", "package", "jar:test-jar")
_JARS = f"{BUILT / 'java'}"
_ARCHIVE = f"{BUILT / 'java.jsa'}"
"""Classes as a JVM has them in memory: it starts in a quarter of the time."""
_CLASSES = ("-XX:+UseSerialGC", "-cp", f"{JAVA / 'target'}/*:{_JARS}/*")
_FAST_JVM = ("java", f"-XX:SharedArchiveFile={_ARCHIVE}", *_CLASSES)
_JVM = (*_FAST_JVM[:1], "-XX:TieredStopAtLevel=1", *_FAST_JVM[1:])
"""Whose programs end before the better compiler could pay."""
_ARCHIVING = (
    f"for part in target/*.jar {_JARS}; do test {_ARCHIVE} -nt $part || stale=yes; done; test -z $stale || "
    f"java -XX:ArchiveClassesAtExit={_ARCHIVE} {_CLASSES[0]} -cp '{_CLASSES[2]}' Program "
    """'{"call": "tail", "target": "127.0.0.1:1", "collection": "a/b", "start": "beginning", "patience_ms": 0}'"""
)

LANGUAGES = (
    Language(
        name="Python",
        tools=(),
        program=(sys.executable, str(PYTHON / "conformance/program.py")),
        mirror=(sys.executable, str(PYTHON / "examples/mirror.py")),
    ),
    Language(
        name="Go",
        tools=("go",),
        build=((GO, ("go", "build", "-o", f"{BUILT}/go/", "./conformance", "./examples/mirror")),),
        program=(str(BUILT / "go/conformance"),),
        mirror=(str(BUILT / "go/mirror"),),
        own_tests=(("gofmt", "-l", "."), ("go", "vet", "./..."), ("go", "test", "./...")),
    ),
    Language(
        name="TypeScript",
        tools=("node", "npm"),
        build=((TYPESCRIPT, ("npm", "run", "--silent", "build")),),
        program=("node", str(TYPESCRIPT / "dist/conformance/program.js")),
        mirror=("node", str(TYPESCRIPT / "dist/examples/mirror.js")),
        own_tests=(("npm", "run", "--silent", "test"),),
    ),
    Language(
        name="Rust",
        tools=("cargo", "cc"),
        build=((RUST, (*_CARGO, "build", "--quiet", "--locked", "--examples")),),
        program=(str(BUILT / "rust/debug/examples/conformance"),),
        mirror=(str(BUILT / "rust/debug/examples/mirror"),),
        own_tests=((*_CARGO, "fmt", "--check"), (*_CARGO, "test", "--quiet", "--locked")),
        fast_build=((RUST, (*_CARGO, "build", "--quiet", "--locked", "--release", "--example", "conformance")),),
        fast_program=(str(BUILT / "rust/release/examples/conformance"),),
    ),
    Language(
        name="Java",
        tools=("java", "mvn"),
        build=(
            (JAVA, ("sh", "-c", f"test {_JARS} -nt pom.xml || rm -rf {_JARS}")),  # no package of before stays
            (JAVA, (*_MAVEN, "dependency:copy-dependencies", f"-DoutputDirectory={_JARS}")),
            (JAVA, ("sh", "-c", _ARCHIVING)),
        ),
        program=(*_JVM, "Program"),
        mirror=(*_JVM, "Mirror"),
        fast_program=(*_FAST_JVM, "Program"),
        own_tests=((*_JVM, "org.junit.platform.console.ConsoleLauncher", "execute", "--select-package=io.changefeed"),),
    ),
)
