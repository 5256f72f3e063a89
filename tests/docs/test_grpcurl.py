"""Every command of docs/grpcurl.md gives the answer that stands below it, by grpcurl and by buf."""

import asyncio
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pool, json_format, message_factory

import changefeed.v1.change_feed_service_pb2  # noqa: F401 - makes the service known
from tests.docs.conftest import Library
from tests.docs.pages import DOCS, Block, blocks

PAGE = DOCS / "grpcurl.md"
RPCS = (
    "ReadChanges",
    "ListPhysicalPartitions",
    "Subscribe",
    "GetCapabilities",
    "ResolveStartPosition",
    "InspectContinuationToken",
)
TOOLS = [*(["grpcurl"] if shutil.which("grpcurl") else []), "buf"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Commands, and the answer that the page shows for them."""

    commands: str
    answer: Block | None

    @property
    def fails(self) -> bool:
        """Whether the page shows an error."""
        return self.answer is not None and self.answer.text.startswith("ERROR:")


def steps() -> list[Step]:
    """The page's steps in order; each goes on with the variables of the ones before."""
    found = blocks(PAGE, "sh", "json", "text")
    return [
        Step(commands=block.text, answer=following if following and following.language != "sh" else None)
        for block, following in zip(found, [*found[1:], None], strict=True)
        if block.language == "sh"
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a step did."""

    code: int
    out: str
    err: str


async def run(steps: list[Step], directory: Path, path: str) -> list[Outcome]:
    """Run all of them in one shell."""
    script = "".join(
        f"{{\n{step.commands}}} >out.{number} 2>err.{number}\necho $? >code.{number}\n"
        for number, step in enumerate(steps)
    )
    shell = await asyncio.create_subprocess_exec("bash", "-c", script, cwd=directory, env={**os.environ, "PATH": path})
    async with asyncio.timeout(120):
        await shell.wait()
    return [
        Outcome(
            code=int((directory / f"code.{number}").read_text()),
            out=(directory / f"out.{number}").read_text(),
            err=(directory / f"err.{number}").read_text(),
        )
        for number in range(len(steps))
    ]


def with_buf_for_grpcurl(directory: Path) -> str:
    """A folder of commands in which `grpcurl` is the translator."""
    stand_in = directory / "grpcurl"
    translator = Path(__file__).with_name("grpcurl_by_buf.py")
    stand_in.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{translator}" "$@"\n')
    stand_in.chmod(0o755)
    return str(directory)


def documents(text: str) -> Iterator[Any]:
    """The JSON values that stand one after another."""
    rest = text.strip()
    while rest:
        value, end = json.JSONDecoder().raw_decode(rest)
        yield value
        rest = rest[end:].strip()


def snake(name: str) -> str:
    """A field's name as the contract spells it."""
    return re.sub(r"[A-Z]", lambda letter: "_" + letter[0].lower(), name)


def shows(expected: Any, actual: Any) -> bool:
    """Whether all that is expected is there; `...` stands for anything."""
    match expected, actual:
        case dict(), dict():
            named = {snake(name): value for name, value in actual.items()}
            return all(name in named and shows(value, named[name]) for name, value in expected.items())
        case list(), list():
            return len(expected) == len(actual) and all(map(shows, expected, actual))
        case "...", str():
            return actual != ""
        case _:
            return bool(expected == actual)


def missing(answer: Block, outcome: Outcome) -> list[str]:
    """What the page shows and the command did not say."""
    if answer.language == "json":
        left = documents(outcome.out)
        return [
            json.dumps(expected)
            for expected in documents(answer.text)
            if not any(shows(expected, actual) for actual in left)
        ]
    said = [line.strip().removesuffix(",") for line in (outcome.out + outcome.err).splitlines()]
    wanted = [line.strip().removesuffix(",") for line in answer.text.splitlines() if line.strip()]
    patterns = {line: re.escape(line).replace(r"\.\.\.", ".+") for line in wanted}
    return [line for line, pattern in patterns.items() if not any(re.fullmatch(pattern, other) for other in said)]


@pytest.mark.req("A3")
@pytest.mark.parametrize("tool", TOOLS)
async def test_every_command_gives_the_answer_below_it(tool: str, library: Library, tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    chosen = steps()
    if tool == "buf":
        commands = tmp_path / "commands"
        commands.mkdir()
        path = os.pathsep.join([with_buf_for_grpcurl(commands), path])
        # buf has no such thing, as the page says.
        chosen = [step for step in chosen if " describe " not in step.commands]
    here = [
        Step(commands=step.commands.replace("127.0.0.1:50051", library.target), answer=step.answer) for step in chosen
    ]
    outcomes = await run(here, tmp_path, path)
    for step, outcome in zip(here, outcomes, strict=True):
        assert (outcome.code != 0) == step.fails, (step.commands, outcome)
        if step.answer:
            assert not missing(step.answer, outcome), (step.commands, outcome)


def test_the_page_shows_every_call() -> None:
    commands = "".join(step.commands for step in steps())
    assert all(f"$SERVICE/{rpc}" in commands for rpc in RPCS)
    assert "grpc.health.v1.Health/Check" in commands
    unchecked = [step.commands for step in steps() if "$GATEWAY" in step.commands and step.answer is None]
    assert not unchecked


def test_the_comparison_finds_a_difference() -> None:
    outcome = Outcome(code=0, out='{"moreAvailable": true, "events": [{}]} {"status": "SERVING"}', err="")
    assert not missing(Block(language="json", text='{"more_available": true} {"status": "SERVING"}'), outcome)
    assert missing(Block(language="json", text='{"more_available": false}'), outcome)
    assert missing(Block(language="json", text='{"status": "SERVING"} {"events": [{}]}'), outcome)
    assert missing(Block(language="json", text='{"events": [{}, {}]}'), outcome)
    assert missing(Block(language="text", text="Code: NotFound"), outcome)


def test_the_ghz_line_is_a_call_of_the_contract() -> None:
    (line,) = blocks(PAGE, "bash")
    words = shlex.split(line.text)
    service, _, method = words[words.index("--call") + 1].rpartition(".")
    described = descriptor_pool.Default().FindServiceByName(service).methods_by_name[method]
    request = message_factory.GetMessageClass(described.input_type)()
    json_format.Parse(words[words.index("-d") + 1], request)
    assert request.HasField("address")
