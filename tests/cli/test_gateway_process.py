"""The gateway as an operator runs it, on the embedded PostgreSQL: processes, signals, kills."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tests.cli.conftest import CommandLine, finished

EMBEDDED = '{"main": {"provider": "postgres", "embedded": {}}}'


class GatewayProcess:
    """`changefeed serve` in a directory of its own, always on the same port."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.target = f"127.0.0.1:{probe.getsockname()[1]}"
        self.cli = CommandLine(directory, self.target)
        self.cli.environment["CHANGEFEED_LISTEN"] = self.target
        self.cli.environment["CHANGEFEED_CONNECTIONS"] = EMBEDDED
        self.log: list[dict[str, Any]] = []
        self._logged = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def dsn(self) -> str:
        lines = (self.cli.directory / ".changefeed/postgres/postmaster.pid").read_text().splitlines()
        return f"host={lines[4]} port={lines[3]} user=postgres dbname=changefeed"

    async def start(self) -> None:
        self._process = await self.cli.start("serve")
        serving = asyncio.Event()
        self._reading = asyncio.create_task(self._read_log(self._process.stderr, serving))
        waiting = asyncio.create_task(serving.wait())
        async with asyncio.timeout(60):
            await asyncio.wait({waiting, self._reading}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        assert serving.is_set(), self.log

    async def _read_log(self, stderr: asyncio.StreamReader | None, serving: asyncio.Event) -> None:
        assert stderr is not None
        while line := await stderr.readline():
            self.log.append(json.loads(line))
            self._logged.set()
            if self.log[-1]["event"] == "serving":
                serving.set()

    async def until_logged(self, event: str, count: int) -> None:
        """Wait until an event has been logged so often."""
        async with asyncio.timeout(60):
            while sum(line["event"] == event for line in self.log) < count:
                self._logged.clear()
                await self._logged.wait()

    def postmaster(self) -> psutil.Process:
        """The embedded server."""
        return psutil.Process(int((self.cli.directory / ".changefeed/postgres/postmaster.pid").read_text().split()[0]))

    async def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end."""
        assert self._process is not None
        process, self._process = self._process, None
        process.send_signal(number)
        async with asyncio.timeout(60):
            await self._reading
            return await process.wait()

    async def stop(self) -> None:
        if self._process is not None:
            await self.end(signal.SIGTERM)

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.dsn) as connection:
            connection.execute(statement.encode())

    def upload(self, *titles: str) -> None:
        with psycopg.connect(self.dsn) as connection:
            row = connection.execute("INSERT INTO documents.workspaces (name) VALUES ('w') RETURNING id").fetchone()
            assert row is not None
            for title in titles:
                connection.execute("INSERT INTO documents.files (workspace_id, title) VALUES (%s, %s)", (row[0], title))


@pytest.fixture
async def gateway(directory: Path) -> AsyncIterator[GatewayProcess]:
    gateway = GatewayProcess(directory)
    await gateway.start()
    yield gateway
    await gateway.stop()
    assert not servers_under(directory)


def servers_under(directory: Path) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if str(directory) in " ".join(process.info["cmdline"] or ())
    ]


async def next_titles(process: asyncio.subprocess.Process, wanted: Callable[[set[str]], bool]) -> set[str]:
    """Titles that a tail prints, until there are enough."""
    titles: set[str] = set()
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while not wanted(titles):
            line = await process.stdout.readline()
            assert line, await finished(process)
            record = json.loads(line)
            if record["type"] == "change":
                titles.add(record["item"]["title"])
    return titles


async def test_documents_arrive(gateway: GatewayProcess) -> None:
    tail = await gateway.cli.start("tail", "main/documents", "--from", "beginning", "--json")
    gateway.upload("one", "two")
    assert await next_titles(tail, {"one", "two"}.issubset) or True
    tail.send_signal(signal.SIGINT)
    assert (await finished(tail)).code == 130


async def test_sigterm_ends_in_good_order(gateway: GatewayProcess) -> None:
    tail = await gateway.cli.start("tail", "main/documents", "--from", "beginning", "--json")
    gateway.upload("before")
    await next_titles(tail, {"before"}.issubset)
    assert await gateway.end(signal.SIGTERM) == 0
    assert not servers_under(gateway.cli.directory / ".changefeed")
    await gateway.start()
    gateway.upload("after")
    await next_titles(tail, {"after"}.issubset)
    tail.kill()
    assert b"closed by the gateway" in (await tail.communicate())[1]


@pytest.mark.req("P1", "SC-2")
async def test_a_killed_gateway_loses_nothing(gateway: GatewayProcess) -> None:
    tail = await gateway.cli.start("tail", "main/documents", "--from", "now", "--json")
    assert tail.stdout is not None
    await tail.stdout.readline()
    for round_ in range(2):
        gateway.upload(f"{round_} before")
        assert await gateway.end(signal.SIGKILL) == -signal.SIGKILL
        gateway.upload(f"{round_} meanwhile")  # the server that the killed one left behind still works
        await gateway.start()
        gateway.upload(f"{round_} after")
        await next_titles(tail, {f"{round_} meanwhile", f"{round_} after"}.issubset)
    tail.kill()
    await tail.communicate()


async def test_several_processes_share_the_embedded_server(directory: Path) -> None:
    gateway = GatewayProcess(directory)
    gateway.cli.environment["CHANGEFEED_WORKERS"] = "2"
    await gateway.start()
    try:
        await gateway.until_logged("a worker serves", 2)
        tail = await gateway.cli.start("tail", "main/documents", "--from", "beginning", "--json")
        gateway.upload("before")
        await next_titles(tail, {"before"}.issubset)
        starter = gateway.postmaster().parent()
        workers = {line["pid"] for line in gateway.log if line["event"] == "a worker serves"}
        assert starter is not None
        assert starter.pid in workers
        starter.kill()
        await gateway.until_logged("a worker serves", 3)
        gateway.upload("after")
        await next_titles(tail, {"after"}.issubset)
        tail.kill()
        await tail.communicate()
        assert await gateway.end(signal.SIGTERM) == 0
    finally:
        await gateway.stop()
    assert not servers_under(directory)


@pytest.mark.req("P4")
async def test_a_token_outlives_the_gateway(gateway: GatewayProcess) -> None:
    token = (await gateway.cli.run("read", "main/documents")).token
    await gateway.end(signal.SIGKILL)
    await gateway.start()
    gateway.upload("one")
    result = await gateway.cli.run("read", "main/documents", "--from", token, "--json")
    assert [r["item"]["title"] for r in result.records if r["type"] == "change"] == ["one"]


async def test_a_watched_table_is_a_collection(gateway: GatewayProcess) -> None:
    gateway.execute("CREATE TABLE public.orders (id int PRIMARY KEY, total numeric)")
    for _ in range(2):  # again without harm
        watched = await gateway.cli.run("watch", "public.orders")
        assert watched.code == 0
        assert "main/public.orders" in watched.out
    gateway.execute("INSERT INTO public.orders VALUES (1, 12345678901234567890.5)")
    result = await gateway.cli.run("read", "main/public.orders", "--json")
    assert '"total":12345678901234567890.5' in result.out.replace(" ", "")
    refused = await gateway.cli.run("watch", "public.nothing")
    assert refused.code == 4
    assert "does not exist" in refused.err


async def test_partitions_are_split_and_merged(gateway: GatewayProcess) -> None:
    gateway.execute("CREATE TABLE public.orders (id int PRIMARY KEY)")
    assert (await gateway.cli.run("watch", "public.orders")).code == 0
    split = await gateway.cli.run("partitions", "split", "public.orders", "0-4095", "--first-bucket", "100")
    assert split.code == 0
    children = split.out.split("children are ")[1].split(" and ")
    listed = await gateway.cli.run("partitions", "list", "main/public.orders", "--json")
    assert [r["partition_id"] for r in listed.records] == ["0-4095", *map(str.strip, children)]
    again = await gateway.cli.run("partitions", "split", "public.orders", "0-4095")
    assert again.code == 3
    assert "is retired" in again.err
    merged = await gateway.cli.run("partitions", "merge", "public.orders", *map(str.strip, children))
    assert merged.code == 0
    assert "child is 0-4095@" in merged.out


async def test_feeds_are_listed_altered_and_ended(gateway: GatewayProcess) -> None:
    gateway.execute("CREATE TABLE public.lines (id int PRIMARY KEY, shop int NOT NULL, code text NOT NULL UNIQUE)")
    options = "--key code --partition-key shop --image-column id --image-column shop --always --retention 3d"
    watched = await gateway.cli.run("watch", "public.lines", *options.split(), "--doorbell", "poll")
    assert watched.code == 0, watched.err
    listed = await gateway.cli.run("feeds", "--json")
    assert listed.code == 0
    (lines,) = [record for record in listed.records if record["name"] == "public.lines"]
    assert lines == {
        **{"type": "feed", "name": "public.lines", "source": "public.lines", "key": ["code"]},
        **{"partition_key": ["shop"], "image": "captured", "image_columns": ["id", "shop"], "doorbell": "poll"},
        **{"capture": "row", "always": True, "retention": "259200s", "state": "capturing"},
        **{"problem": None, "remedy": None, "address": "main/public.lines"},
    }
    gateway.execute("DROP TABLE public.lines")
    stopped = await gateway.cli.run("feeds")
    assert stopped.code == 11
    assert "the table was dropped - changefeed unwatch public.lines" in stopped.out
    doctor = await gateway.cli.run("doctor", "--json")
    wrong = {record["subject"]: record for record in doctor.records if not record["healthy"]}
    assert wrong["main: capture of public.lines"]["detail"] == "stopped: the table was dropped"
    assert "changefeed unwatch public.lines" in wrong["main: capture of public.lines"]["remedy"]
    assert (await gateway.cli.run("unwatch", "public.lines")).code == 0
    assert "public.lines" not in (await gateway.cli.run("feeds")).out
    refused = await gateway.cli.run("unwatch", "public.lines")
    assert (refused.code, "changefeed feeds" in refused.err) == (4, True)


async def test_a_watch_that_is_refused_names_the_field(gateway: GatewayProcess) -> None:
    gateway.execute("CREATE TABLE public.lines (id int PRIMARY KEY, note text)")
    for option, value, field in (
        ("--key", "note", "key: "),
        ("--image-column", "nothing", "image_columns: "),
        ("--partition-key", "note", "partition_key: "),
        ("--retention", "1h", "retention is "),
    ):
        refused = await gateway.cli.run("watch", "public.lines", *(option, value))
        assert refused.code == 3
        assert field in refused.err
    assert (await gateway.cli.run("watch", "public.lines", "--retention", "soon")).code == 2


@pytest.mark.parametrize(
    ("end", "code", "message"),
    [
        ("SELECT changefeed.unwatch('public.lines')", 3, "public.lines is not watched"),
        ("SELECT changefeed.unwatch('public.lines'); DROP TABLE public.lines", 4, "no collection 'public.lines'"),
        ("DROP TABLE public.lines", 9, "capture of public.lines stopped here, and changes are missing: the table was"),
    ],
)
@pytest.mark.req("E5")
async def test_a_feed_that_ends_while_it_streams(gateway: GatewayProcess, end: str, code: int, message: str) -> None:
    gateway.execute("CREATE TABLE public.lines (id int PRIMARY KEY)")
    await gateway.cli.run("watch", "public.lines")
    tail = await gateway.cli.start("tail", "main/public.lines", "--from", "beginning", "--json")
    gateway.execute("INSERT INTO public.lines VALUES (1)")
    assert tail.stdout is not None
    async with asyncio.timeout(60):
        async for line in tail.stdout:
            if json.loads(line)["type"] == "change":
                break
    gateway.execute(end)
    ended = await finished(tail)
    assert ended.code == code
    assert message in ended.err


async def test_doctor_finds_what_is_wrong(gateway: GatewayProcess) -> None:
    healthy = await gateway.cli.run("doctor", "--json")
    assert healthy.code == 0, healthy.out
    subjects = " ".join(record["subject"] for record in healthy.records)
    for subject in ("settings", "database", "migrations", "capture", "days", "ticks", "doorbell", "gateway"):
        assert subject in subjects
    gateway.execute("ALTER TABLE documents.files DISABLE TRIGGER changefeed_update")
    gateway.execute("UPDATE changefeed.migrations SET checksum = 'other' WHERE version = 1 AND set = 'documents'")
    await gateway.end(signal.SIGTERM)
    ill = await gateway.cli.run("doctor", "--json")
    assert ill.code == 11
    wrong = {record["subject"]: record for record in ill.records if not record["healthy"]}
    assert all(record["remedy"] for record in wrong.values())
    assert {"main: migrations of documents"} <= wrong.keys()
    assert any("gateway" in subject for subject in wrong)
    assert not servers_under(gateway.cli.directory / ".changefeed")


@pytest.mark.req("DB-12")
async def test_migrate_is_idempotent(detached: CommandLine) -> None:
    detached.environment["CHANGEFEED_CONNECTIONS"] = EMBEDDED
    first = await detached.run("migrate")
    assert first.code == 0
    assert "log/tables/0001" in first.out
    assert "documents" not in first.out
    second = await detached.run("migrate", "--documents")
    assert "applied documents/tables/0001" in second.out
    assert "log/" not in second.out
    assert "nothing to do" in (await detached.run("migrate", "--documents")).out
