"""How the process begins."""

import asyncio
import subprocess
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import pytest

from tests.cli.conftest import CommandLine, finished


def test_garbage_is_looked_for_once_the_command_line_is_loaded() -> None:
    program = (
        "import gc, sys; sys.argv = ['changefeed', '--version']\n"
        "from changefeed_gateway.cli.start import main\n"
        "assert 'changefeed_gateway.cli.main' not in sys.modules\n"
        "try: main()\n"
        "finally: print(gc.isenabled())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("changefeed ")
    assert done.stdout.endswith("True\n")


def test_nobody_looks_for_garbage_in_what_is_loaded_until_it_serves(tmp_path: Path) -> None:
    """Looking costs by the object: so many are looked at, each as often as somebody looks."""
    (tmp_path / "changefeed.yaml").write_text("listen: 127.0.0.1:0\nconnections: {mem: {provider: memory}}\n")
    program = (
        "import gc, sys; sys.argv = ['changefeed', 'serve']\n"
        "looked_at = 0\n"
        "def look(phase, about):\n"
        "    global looked_at\n"
        "    generations = range(about['generation'] + 1) if phase == 'start' else ()\n"
        "    looked_at += sum(len(gc.get_objects(generation=each)) for each in generations)\n"
        "gc.callbacks.append(look)\n"
        "from changefeed_gateway.cli.start import main\n"
        "try: main()\n"
        "finally: print(looked_at)"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        next(line for line in process.stderr if "serving" in line)
        process.terminate()
        assert int(process.stdout.read()) < MOST_LOOKED_AT


MOST_LOOKED_AT = 60_000
"""There are 10,000 today, and 210,000 where the gateway itself is loaded as everything else is."""


def loaded(*modules: str) -> set[str]:
    """The packages that `changefeed serve` has loaded, with modules of its own besides."""
    program = (
        "import sys; from changefeed_gateway.cli.loading import loading\n"
        "with loading():\n"
        "    from changefeed_gateway.cli.main import app_for; app_for(['serve'])\n"
        f"import {', '.join(modules)}\n"
        "print(len(sys.modules)); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    count, names = done.stdout.splitlines()
    assert int(count) <= MOST_MODULES, names
    return {part for name in names.split() for part in (name, name.split(".")[0])}


MOST_MODULES = 600
"""There are 576 today, and 810 with what the other commands need. Loading is most of the time until it serves."""
OF_OTHERS = {
    *("attr", "changefeed_gateway.providers", "pygments", "rich"),
    *("azure", "boto3", "botocore", "changefeed_client", "cryptography", "google.cloud", "jwt", "opentelemetry"),
    *("prometheus_client", "psycopg", "changefeed_gateway.cli.demo", "changefeed_gateway.cli.output"),
}
"""What only other commands need, or settings that name it, or nobody."""


def test_serving_loads_no_driver_no_identity_and_no_other_command() -> None:
    assert not loaded("changefeed_gateway.app.serving") & OF_OTHERS


def test_the_parent_of_several_processes_loads_no_grpc_either() -> None:
    assert not loaded("changefeed_gateway.app.workers.parent") & {*OF_OTHERS, "grpc", "google", "changefeed"}


@pytest.mark.parametrize("arguments", [("read", "main/documents"), ("config", "show"), ("tail",)])
async def test_the_other_tests_forked_commands_say_and_end_as_one_that_is_begun(
    detached: CommandLine, arguments: tuple[str, ...]
) -> None:
    begun = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "changefeed_gateway.cli", *arguments),
        cwd=detached.directory,
        env=detached.environment,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )
    assert await detached.run(*arguments) == await finished(begun)


async def test_a_forked_command_keeps_its_number_until_its_end_has_been_taken(detached: CommandLine) -> None:
    """Whoever signals it before they hear of its end meets nobody else."""
    process = await detached.start("--version")
    # In one turn of the loop, so that nobody here hears of it.
    wait_for_state(process.pid, "Z")
    process.kill()
    assert (await finished(process)).code == 0
    wait_for_state(process.pid, "")


def wait_for_state(pid: int, state: str) -> None:
    """Block until a process is in a state; an empty one: until it is gone."""
    until = time.monotonic() + 60
    while (found := state_of(pid)) != state:
        assert time.monotonic() < until, f"{found!r} and not {state!r}"
        time.sleep(0.01)


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
