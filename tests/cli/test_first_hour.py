"""What a new user types before anything is set up: nothing surprises, and everything says what to do next."""

import asyncio
import signal

import pytest

from tests.cli.conftest import CommandLine, CommandLineHere, MemoryGateway, finished

OPERATOR = (
    ("migrate",),
    ("watch", "public.t"),
    ("unwatch", "public.t"),
    ("feeds",),
    ("partitions", "split", "documents", "p"),
    ("partitions", "merge", "documents", "p", "q"),
    ("retention", "run"),
    ("retention", "plan"),
    ("retention", "status"),
    ("retention", "set", "documents", "7d"),
)
CALLERS = (("read", "mem/documents"), ("tail", "mem/documents"), ("capabilities", "mem/documents"))


@pytest.mark.parametrize("command", OPERATOR)
async def test_no_operators_command_makes_a_database_that_nobody_named(
    here: CommandLineHere, command: tuple[str, ...]
) -> None:
    result = await here.run(*command)
    assert result.code == 10
    assert "CHANGEFEED_CONNECTIONS__MAIN__DSN" in result.err
    assert not list(here.directory.iterdir())


async def test_a_look_makes_no_database_and_says_where_it_would_be(here: CommandLineHere) -> None:
    result = await here.run("doctor")
    assert result.code == 11
    assert f"embedded, in {here.directory}/.changefeed/postgres, not made yet" in result.out
    assert not list(here.directory.iterdir())


async def test_serve_says_in_a_line_where_its_database_is_and_doctor_says_it_too(detached: CommandLine) -> None:
    detached.environment["CHANGEFEED_LISTEN"] = "127.0.0.1:0"
    serving = await detached.start("serve")
    assert serving.stderr is not None
    said: list[str] = []
    async with asyncio.timeout(60):
        while '"serving"' not in "".join(said):
            said.append((await serving.stderr.readline()).decode())
    place = f"{detached.directory}/.changefeed/postgres"
    assert len([line for line in said if "embedded PostgreSQL" in line and place in line]) == 1
    (warned,) = [line for line in said if "tokens.keys" in line]
    assert f"{detached.directory}/.changefeed/token.key" in warned
    doctor = await detached.run("doctor", environment={"CHANGEFEED_LISTEN": "127.0.0.1:1"})
    assert f"ok     main: server: embedded, in {place}" in doctor.out
    serving.send_signal(signal.SIGTERM)
    assert (await finished(serving)).code == 0


@pytest.mark.parametrize("command", CALLERS)
async def test_callers_find_the_gateway_that_their_settings_describe(
    here: CommandLineHere, memory_gateway: MemoryGateway, command: tuple[str, ...]
) -> None:
    del here.environment["CHANGEFEED_TARGET"]
    memory_gateway.documents.put("workspace", "one", {})
    more = ("--from", "beginning", "--max-events", "1") if command[0] == "tail" else ()
    (here.directory / "changefeed.yaml").write_text(f"listen: {memory_gateway.target}\n")
    assert (await here.run(*command, *more)).code == 0
    # What is said nearer to the command wins.
    assert (await here.run(*command, *more, environment={"CHANGEFEED_LISTEN": "127.0.0.1:1"})).code == 8
    assert (await here.run(*command, *more, environment={"CHANGEFEED_TARGET": "127.0.0.1:1"})).code == 8
    target = ("--target", memory_gateway.target)
    assert (await here.run(*command, *more, *target, environment={"CHANGEFEED_TARGET": "127.0.0.1:1"})).code == 0


@pytest.mark.parametrize(
    ("file", "environment", "options", "said"),
    [
        ("listen: 127.0.0.1:1", {}, (), "127.0.0.1:1 (listen in changefeed.yaml)"),
        ("{}", {"CHANGEFEED_LISTEN": "127.0.0.1:1"}, (), "127.0.0.1:1 (CHANGEFEED_LISTEN)"),
        ("{}", {"CHANGEFEED_TARGET": "localhost:1"}, (), "localhost:1 (CHANGEFEED_TARGET)"),
        ("{}", {"CHANGEFEED_TARGET": "localhost:2"}, ("--target", "127.0.0.1:1"), "127.0.0.1:1 (--target)"),
    ],
)
async def test_a_gateway_that_is_not_there_is_an_error_at_once_that_says_where_it_was_looked_for(
    here: CommandLineHere, file: str, environment: dict[str, str], options: tuple[str, ...], said: str
) -> None:
    del here.environment["CHANGEFEED_TARGET"]
    (here.directory / "changefeed.yaml").write_text(file)
    result = await here.run("tail", "main/documents", *options, environment=environment)
    assert result.code == 8
    assert result.err == (
        f"no gateway answers at {said}: start it with changefeed serve, or say with --target where it is,"
        " and with --tls or --ca if it speaks TLS\n"
    )


async def test_a_tail_that_is_told_how_long_waits_for_its_gateway(
    changefeed: CommandLine, memory_gateway: MemoryGateway
) -> None:
    memory_gateway.documents.put("workspace", "one", {})
    await memory_gateway.stop()
    tail = await changefeed.start(
        *("tail", "mem/documents", "--from", "beginning", "--max-events", "1", "--retry-for", "1m")
    )
    assert tail.stderr is not None
    assert b"rows that were there before it do not arrive" in await tail.stderr.readline()
    assert b"waiting up to 1m" in await tail.stderr.readline()
    await memory_gateway.start()
    assert (await finished(tail)).code == 0
