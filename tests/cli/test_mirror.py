"""`mirror`: a copy of what is there and of every change, that a kill, an expiry and a restart leave right."""

import asyncio
import json
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from changefeed.v1.change_event_pb2 import (
    KEY_TYPE_BOOLEAN,
    KEY_TYPE_NULL,
    KEY_TYPE_NUMBER,
    KEY_TYPE_STRING,
    ChangeEvent,
    Key,
    KeyComponent,
)
from changefeed_gateway.app import operations
from changefeed_gateway.cli.exits import Failed
from changefeed_gateway.cli.mirror.copy import Copy
from changefeed_gateway.cli.mirror.following import differing, step_of
from changefeed_gateway.cli.mirror.sqlite_copy import SqliteCopy
from changefeed_gateway.providers.postgres.errors import OperationError
from changefeed_gateway.providers.postgres.provider import PostgresProvider
from tests.cli.conftest import CommandLine, CommandLineHere, MemoryGateway, finished
from tests.clients.scripted_gateway import EXPIRED, ScriptedGateway, opened
from tests.conftest import StartGateway
from tests.databases import LOG, PostgresForTests

pytestmark = pytest.mark.req("CF-13")

DOCUMENTS = "mem/documents"


def write(gateway: MemoryGateway, *numbers: int, version: int = 1) -> None:
    for number in numbers:
        gateway.documents.put(f"w{number % 3}", f"d{number}", {"n": number, "version": version})


def source(gateway: MemoryGateway) -> dict[str, str]:
    documents = gateway.documents
    return {
        json.dumps([component.value for component in key.components]): documents.item(key)[0]
        for key in documents.present()
    }


def held(file: Path) -> dict[str, str]:
    database = sqlite3.connect(file)
    rows = dict(database.execute("select key, item from items").fetchall())
    database.close()
    return rows


def leave_text(name: str) -> None:
    Path(name).write_text("no database, but long enough to be taken for one " * 50)


@pytest.fixture
def mirror_here(here: CommandLineHere, memory_gateway: MemoryGateway) -> CommandLineHere:
    here.environment["CHANGEFEED_TARGET"] = memory_gateway.target
    return here


async def test_a_copy_has_what_was_there_and_goes_on(
    mirror_here: CommandLineHere, memory_gateway: MemoryGateway
) -> None:
    write(memory_gateway, *range(30))
    first = await mirror_here.run("mirror", DOCUMENTS, "copy.db", "--once")
    assert first.code == 0, first.err
    assert "snapshot is whole" in first.err
    assert first.err.count("SNAPSHOT_CONVERGES") == 1
    assert held(Path("copy.db")) == source(memory_gateway)
    write(memory_gateway, 3, 99, version=2)
    memory_gateway.documents.delete("w0", "d0")
    second = await mirror_here.run("mirror", DOCUMENTS, "copy.db", "--once", "--json")
    assert second.code == 0, second.err
    # The gateway of this process writes its log there too.
    said = [json.loads(line) for line in second.out.splitlines() if line.startswith("{")]
    assert said == [{"type": "copy", "state": "live"}], "it goes on, and does not begin anew"
    assert held(Path("copy.db")) == source(memory_gateway)


async def test_a_kill_leaves_a_copy_that_goes_on(changefeed: CommandLine, memory_gateway: MemoryGateway) -> None:
    write(memory_gateway, *range(2_000))
    process = await changefeed.start("mirror", DOCUMENTS, "copy.db")
    assert process.stderr is not None
    async for line in process.stderr:
        if b"new copy" in line:
            break
    write(memory_gateway, *range(1_000), version=2)
    process.kill()
    await process.wait()
    ended = await finished(await changefeed.start("mirror", DOCUMENTS, "copy.db", "--once"))
    assert ended.code == 0, ended.err
    assert held(changefeed.directory / "copy.db") == source(memory_gateway)
    process = await changefeed.start("mirror", DOCUMENTS, "copy.db")
    assert process.stderr is not None
    async for line in process.stderr:
        if b"live" in line:
            break
    process.send_signal(signal.SIGINT)
    assert (await finished(process)).code == 130


async def test_an_expired_copy_begins_anew_only_when_told_and_loses_what_is_gone(
    mirror_here: CommandLineHere, memory_gateway: MemoryGateway
) -> None:
    write(memory_gateway, *range(10))
    await mirror_here.run("mirror", DOCUMENTS, "copy.db", "--once")
    before = held(Path("copy.db"))
    memory_gateway.documents.delete("w1", "d1")
    write(memory_gateway, 2, 50, version=2)
    memory_gateway.documents.trim()
    refused = await mirror_here.run("mirror", DOCUMENTS, "copy.db", "--once")
    assert refused.code == 6
    assert "--on-expiry snapshot" in refused.err
    assert held(Path("copy.db")) == before
    again = await mirror_here.run("mirror", DOCUMENTS, "copy.db", "--once", "--on-expiry", "snapshot")
    assert again.code == 0, again.err
    assert held(Path("copy.db")) == source(memory_gateway)


async def test_a_copy_of_what_was_made_anew_ends_with_the_remedy(
    mirror_here: CommandLineHere, memory_gateway: MemoryGateway
) -> None:
    write(memory_gateway, 1)
    await mirror_here.run("mirror", DOCUMENTS, "copy.db", "--once")
    memory_gateway.store.recreate("documents")
    refused = await mirror_here.run("mirror", DOCUMENTS, "copy.db", "--once", "--on-expiry", "snapshot")
    assert refused.code == 3
    assert "remove the copy's file" in refused.err


async def test_a_file_is_the_copy_of_one_collection(
    mirror_here: CommandLineHere, memory_gateway: MemoryGateway
) -> None:
    write(memory_gateway, 1)
    await mirror_here.run("mirror", DOCUMENTS, "copy.db", "--once")
    other = await mirror_here.run("mirror", "mem/plain", "copy.db", "--once")
    assert other.code == 12
    assert DOCUMENTS in other.err
    leave_text("text.db")
    broken = await mirror_here.run("mirror", DOCUMENTS, "text.db", "--once")
    assert broken.code == 12


async def test_a_table_of_postgresql_is_a_copy_that_verify_compares(
    here: CommandLineHere, postgres: PostgresForTests, start_gateway: StartGateway
) -> None:
    log_database = await postgres.fresh(LOG)
    gateway = await start_gateway({"main": PostgresProvider(log_database)})
    connections = {"main": {"provider": "postgres", "dsn": log_database}}
    here.environment |= {"CHANGEFEED_TARGET": gateway.target, "CHANGEFEED_CONNECTIONS": json.dumps(connections)}
    url = "postgresql:///?" + "&".join(
        f"{name}={value}" for name, value in psycopg.conninfo.conninfo_to_dict(log_database).items()
    )
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection:
        for statement in (
            "create table things (a text, b int, price numeric, primary key (b, a))",
            "insert into things select 'ä' || i % 7, i, i * 1.10 from generate_series(1, 50) i",
            "select changefeed.watch('things')",
        ):
            await connection.execute(statement.encode())
        arguments = ("mirror", "main/public.things", url, "--table", "copy")
        first = await here.run(*arguments, "--once")
        assert first.code == 0, first.err
        await connection.execute("update things set price = 7.00 where b % 3 = 0")
        await connection.execute("update things set b = b + 100 where b < 5")
        await connection.execute("delete from things where b > 40 and b < 50")
        verified = await here.run(*arguments, "--verify")
        assert verified.code == 0, verified.err
        assert "41 items" in verified.err
        await connection.execute("truncate things")
        await connection.execute("insert into things values ('z', 1, 5)")
        assert (await here.run(*arguments, "--once")).code == 0
        rows = await (await connection.execute("select key, item->>'price' from copy")).fetchall()
        assert rows == [('["1", "z"]', "5")] or rows == [('["z", "1"]', "5")]
        other = await here.run("mirror", "main/public.others", url, "--table", "copy", "--once")
        assert other.code == 3


async def test_an_outage_is_told_once_and_lasts_no_longer_than_it_may(
    changefeed: CommandLine, memory_gateway: MemoryGateway
) -> None:
    process = await changefeed.start("mirror", DOCUMENTS, "copy.db", "--retry-for", "1m")
    await said(process, b"live")
    await memory_gateway.abort()
    await said(process, b"interrupted, again")
    await memory_gateway.start()
    await said(process, b"connected again")
    process.send_signal(signal.SIGINT)
    assert (await finished(process)).code == 130
    process = await changefeed.start("mirror", DOCUMENTS, "copy.db", "--retry-for", "50ms")
    await said(process, b"live")
    await memory_gateway.abort()
    assert (await finished(process)).code == 8
    await memory_gateway.start()


async def said(process: asyncio.subprocess.Process, what: bytes) -> None:
    assert process.stderr is not None
    async for line in process.stderr:
        if what in line:
            return
    pytest.fail(f"it ended without {what!r}")


async def test_an_expiry_that_a_new_snapshot_does_not_end_is_no_endless_loop(here: CommandLineHere) -> None:
    gateway = ScriptedGateway([opened("t0"), EXPIRED], *[[EXPIRED]] * 2)
    here.environment["CHANGEFEED_TARGET"] = await gateway.start()
    ended = await here.run("mirror", DOCUMENTS, "copy.db", "--on-expiry", "snapshot")
    await gateway.stop()
    assert ended.code == 6
    assert len(gateway.requests) == 2, "once from its place, once from a snapshot"


async def test_a_url_that_is_none_of_postgresql_is_refused_without_being_shown(mirror_here: CommandLineHere) -> None:
    ended = await mirror_here.run("mirror", DOCUMENTS, "postgresql+psycopg://me:hunter2@h/d", "--once")
    assert ended.code == 2
    assert "hunter2" not in ended.out + ended.err


Two = Callable[[PostgresForTests, str, str], AbstractAsyncContextManager[tuple[Copy, Copy]]]


@asynccontextmanager
async def two_in_a_file(postgres: PostgresForTests, *sources: str) -> AsyncIterator[tuple[Copy, Copy]]:
    first, second = (SqliteCopy("copy.db", source) for source in sources)
    async with aclosing(first), aclosing(second):
        yield first, second


@asynccontextmanager
async def two_in_a_table(postgres: PostgresForTests, *sources: str) -> AsyncIterator[tuple[Copy, Copy]]:
    dsn = await postgres.fresh(LOG)
    first, second = (operations.postgres_copy(dsn, "items", source) for source in sources)
    async with first as one, second as other:
        yield one, other


@pytest.fixture(params=[two_in_a_file, two_in_a_table])
def two(request: pytest.FixtureRequest, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Two:
    monkeypatch.chdir(directory)
    chosen: Two = request.param
    return chosen


async def test_of_two_collections_that_begin_in_one_copy_one_ends(postgres: PostgresForTests, two: Two) -> None:
    async with two(postgres, DOCUMENTS, "mem/plain") as (first, second):
        assert [await first.place(), await second.place()] == [None, None]
        await first.take([("put", "a", "1")], ("token", 1), whole=False)
        with pytest.raises((Failed, OperationError), match="another mirror"):
            await second.take([("put", "b", "0")], ("another", 1), whole=True)
        with pytest.raises((Failed, OperationError), match=f"copy of {DOCUMENTS}"):
            await second.place()
        assert await first.items() == {"a": "1"}


async def test_a_copy_whose_place_was_removed_loses_what_a_new_snapshot_does_not_bring(
    mirror_here: CommandLineHere, memory_gateway: MemoryGateway
) -> None:
    write(memory_gateway, *range(10))
    await mirror_here.run("mirror", DOCUMENTS, "copy.db", "--once")
    memory_gateway.documents.delete("w1", "d1")
    memory_gateway.documents.trim()
    database = sqlite3.connect("copy.db")
    with database:
        database.execute("delete from place")
    database.close()
    anew = await mirror_here.run("mirror", DOCUMENTS, "copy.db", "--once")
    assert anew.code == 0, anew.err
    assert held(Path("copy.db")) == source(memory_gateway)


async def test_a_table_that_is_no_copy_or_is_gone_is_refused_with_the_remedy(postgres: PostgresForTests) -> None:
    dsn = await postgres.fresh(LOG)
    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection,
        operations.postgres_copy(dsn, "items", DOCUMENTS) as copy,
    ):
        for key in ("id int primary key", "key text", "key int primary key"):
            await connection.execute(f"create table items ({key}, item json, round int)".encode())
            with pytest.raises(OperationError, match="--table"):
                await copy.place()
            await connection.execute("drop table items")
        tables = await connection.execute("select to_regclass('items_place')")
        assert await tables.fetchall() == [(None,)], "nothing is left beside somebody's table"
        assert await copy.place() is None
        await copy.take([("put", "a", "1"), ("put", "b", "1")], ("token", 3), whole=True)
        await connection.execute("delete from items_place")
        assert await copy.place() == ("", 3)
        await copy.take([("put", "a", "2")], ("token", 4), whole=True)
        assert await copy.items() == {"a": "2"}
        await connection.execute("drop table items")
        with pytest.raises(OperationError, match=r"drop .*items_place"):
            await copy.place()


async def test_who_may_only_write_keeps_a_copy_in_tables_that_are_there(postgres: PostgresForTests) -> None:
    dsn = await postgres.fresh(LOG)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        async with operations.postgres_copy(dsn, "items", DOCUMENTS) as owner:
            assert await owner.place() is None
        await connection.execute("create role mirror_writer login")
        await connection.execute("grant select, insert, update, delete on items, items_place to mirror_writer")
        writer_dsn = psycopg.conninfo.make_conninfo(dsn, user="mirror_writer")
        async with operations.postgres_copy(writer_dsn, "items", DOCUMENTS) as writer:
            assert await writer.place() is None
            await writer.take([("put", "a", "1"), ("remove", "b", "")], ("token", 1), whole=True)
            assert await writer.items() == {"a": "1"}
        await connection.execute("drop owned by mirror_writer; drop role mirror_writer")


async def test_of_two_that_make_the_tables_of_a_copy_one_ends(postgres: PostgresForTests) -> None:
    dsn = await postgres.fresh(LOG)
    async with (
        await psycopg.AsyncConnection.connect(dsn) as other,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as watch,
        operations.postgres_copy(dsn, "items", DOCUMENTS) as copy,
    ):
        await other.execute("create table items (key text primary key, item json not null, round integer not null)")
        begins = asyncio.create_task(copy.place())
        watching = (
            "select from pg_stat_activity where application_name = 'changefeed-mirror' and wait_event_type = 'Lock'"
        )
        while not (await watch.execute(watching)).rowcount:  # noqa: ASYNC110 - another server's state
            await asyncio.sleep(0.02)
        await other.commit()
        with pytest.raises(OperationError, match="let only one run"):
            await begins


async def test_of_two_that_write_to_one_copy_the_one_behind_ends_and_undoes_nothing(
    postgres: PostgresForTests, two: Two
) -> None:
    async with two(postgres, DOCUMENTS, DOCUMENTS) as (first, second):
        for begun in (False, True):
            for copy in (first, second):
                assert (await copy.place() is not None) is begun
            await first.take([("put", "a", "1")], (f"ahead {begun}", 1), whole=False)
            with pytest.raises((Failed, OperationError), match="another mirror"):
                await second.take([("put", "a", "0"), ("put", "b", "0")], (f"behind {begun}", 1), whole=True)
            assert await second.place() == (f"ahead {begun}", 1)
            assert await second.items() == {"a": "1"}


def test_a_key_of_null_is_no_empty_text() -> None:
    keys = [Key(components=[KeyComponent(name="k", type=kind)]) for kind in (KEY_TYPE_NULL, KEY_TYPE_STRING)]
    puts = [step_of(ChangeEvent(key=key, new_item_json="{}")) for key in keys]
    assert puts == [("put", "[null]", "{}"), ("put", '[""]', "{}")]


def test_values_of_several_types_under_one_path_are_several_keys() -> None:
    """A container of Cosmos DB may have them; elsewhere a column has one type, and its text is enough."""
    typed = ((KEY_TYPE_STRING, "1"), (KEY_TYPE_NUMBER, "1"), (KEY_TYPE_STRING, "true"), (KEY_TYPE_BOOLEAN, "true"))
    keys = [Key(components=[KeyComponent(name="k", type=kind, value=value)]) for kind, value in typed]
    told = [
        [step_of(ChangeEvent(key=key, provider=provider))[1] for key in keys] for provider in ("cosmos", "postgres")
    ]
    assert told == [['["1"]', "[1]", '["true"]', "[true]"], ['["1"]', '["1"]', '["true"]', '["true"]']]


def test_what_differs_is_named_by_key() -> None:
    assert differing({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == {"b", "c"}
