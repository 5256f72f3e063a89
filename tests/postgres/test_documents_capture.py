"""Which change each edit of a document makes, and which edits make none."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import nullcontext

import psycopg
import pytest

from tests.postgres.conftest import Connection

Logged = list[tuple[str, str, bool, str]]
"""key, op, created, partition_key"""


@pytest.fixture
async def logged(connection: Connection) -> Callable[[], Awaitable[Logged]]:
    """What was appended since the last call."""
    seen = 0

    async def since() -> Logged:
        nonlocal seen
        rows = await (
            await connection.execute(
                "SELECT seq, key, op, created, partition_key FROM changefeed_log.log_1 WHERE seq > %s ORDER BY seq",
                [seen],
            )
        ).fetchall()
        seen = rows[-1][0] if rows else seen
        return [row[1:] for row in rows]

    return since


async def one(connection: Connection, query: str, *values: object) -> str:
    row = await (await connection.execute(query, values)).fetchone()
    assert row is not None
    return str(row[0])


@pytest.fixture
async def workspace(connection: Connection) -> str:
    return await one(connection, "INSERT INTO documents.workspaces (name) VALUES ('one') RETURNING id")


@pytest.fixture
async def document(connection: Connection, workspace: str, logged: Callable[[], Awaitable[Logged]]) -> str:
    file = await one(
        connection, "INSERT INTO documents.files (workspace_id, title) VALUES (%s, 'a') RETURNING id", workspace
    )
    assert await logged() == [(file, "upsert", True, workspace)]
    return file


@pytest.fixture
async def version(connection: Connection, document: str) -> str:
    insert = "INSERT INTO documents.file_versions (file_id, version, byte_size, content_type) VALUES (%s, 1, 9, 'a/b')"
    return await one(connection, insert + " RETURNING id", document)


@pytest.mark.req("DB-2", "DB-3", "DB-4")
async def test_a_file_is_upserted_deleted_and_undeleted(
    connection: Connection, document: str, workspace: str, logged: Callable[[], Awaitable[Logged]]
) -> None:
    await connection.execute("UPDATE documents.files SET title = 'b'")
    assert await logged() == [(document, "upsert", False, workspace)]
    await connection.execute("UPDATE documents.files SET deleted_at = now()")
    assert await logged() == [(document, "delete", False, workspace)]
    await connection.execute("UPDATE documents.files SET deleted_at = now()")
    assert await logged() == [(document, "upsert", False, workspace)]
    await connection.execute("UPDATE documents.files SET deleted_at = NULL")
    assert await logged() == [(document, "upsert", True, workspace)]
    await connection.execute("DELETE FROM documents.files")
    assert await logged() == [(document, "delete", False, workspace)]


@pytest.mark.req("DB-4")
async def test_a_document_that_moves_is_deleted_there_and_created_here(
    connection: Connection, document: str, workspace: str, logged: Callable[[], Awaitable[Logged]]
) -> None:
    other = await one(connection, "INSERT INTO documents.workspaces (name) VALUES ('two') RETURNING id")
    await connection.execute("UPDATE documents.files SET workspace_id = %s", [other])
    assert await logged() == [(document, "delete", False, workspace), (document, "upsert", True, other)]


@pytest.mark.req("DB-4")
async def test_only_files_of_kind_document_are_in_the_feed(
    connection: Connection, document: str, workspace: str, logged: Callable[[], Awaitable[Logged]]
) -> None:
    await connection.execute(
        "INSERT INTO documents.files (workspace_id, title, kind) VALUES (%s, 'i', 'image')", [workspace]
    )
    assert await logged() == []
    await connection.execute("UPDATE documents.files SET kind = 'image' WHERE id = %s", [document])
    assert await logged() == [(document, "delete", False, workspace)]
    await connection.execute("UPDATE documents.files SET kind = 'document' WHERE id = %s", [document])
    assert await logged() == [(document, "upsert", True, workspace)]


@pytest.mark.req("DB-5")
async def test_tags_make_one_upsert_a_statement(
    connection: Connection, document: str, workspace: str, logged: Callable[[], Awaitable[Logged]]
) -> None:
    await connection.execute(
        "INSERT INTO documents.file_tags SELECT %s, 't' || n FROM generate_series(1, 3) n", [document]
    )
    assert await logged() == [(document, "upsert", False, workspace)]
    await connection.execute("DELETE FROM documents.file_tags WHERE tag <> 't1'")
    assert await logged() == [(document, "upsert", False, workspace)]
    await connection.execute("DELETE FROM documents.file_tags WHERE tag = 'none'")
    assert await logged() == []


@pytest.mark.req("DB-6", "DB-7")
@pytest.mark.parametrize(
    "assignment",
    ["status = 'done'", "started_at = now()", "completed_at = now()", "output = '{\"n\": 1}'", "error = 'no'"],
)
async def test_a_run_makes_an_upsert_of_its_document(
    connection: Connection,
    document: str,
    workspace: str,
    version: str,
    logged: Callable[[], Awaitable[Logged]],
    assignment: str,
) -> None:
    upsert = [(document, "upsert", False, workspace)]
    await connection.execute("INSERT INTO documents.runs (input_file_version_id) VALUES (%s)", [version])
    assert await logged() == upsert
    await connection.execute("UPDATE documents.runs SET progress = progress + 0.5")
    assert await logged() == []
    await connection.execute(f"UPDATE documents.runs SET {assignment}".encode())
    assert await logged() == upsert
    await connection.execute("UPDATE documents.runs SET status = status")
    assert await logged() == []
    await connection.execute("DELETE FROM documents.runs")
    assert await logged() == upsert


@pytest.mark.req("DB-6", "DB-7")
async def test_a_run_that_lists_show_otherwise_makes_an_upsert(
    connection: Connection,
    document: str,
    workspace: str,
    version: str,
    logged: Callable[[], Awaitable[Logged]],
) -> None:
    """Of all that showed it, once a statement, and by its text: 1.0 and 1.00 are equal."""
    other = await one(
        connection, "INSERT INTO documents.files (workspace_id, title) VALUES (%s, 'b') RETURNING id", workspace
    )
    insert = "INSERT INTO documents.file_versions (file_id, version, byte_size, content_type) VALUES (%s, 1, 9, 'a/b')"
    other_version = await one(connection, insert + " RETURNING id", other)
    runs = "INSERT INTO documents.runs (input_file_version_id, output) SELECT %s, '1.0' FROM generate_series(1, 3)"
    await connection.execute(runs.encode(), [version])
    await logged()
    upserts = {file: (file, "upsert", False, workspace) for file in (document, other)}
    await connection.execute("UPDATE documents.runs SET output = '1.00'")
    assert await logged() == [upserts[document]]
    await connection.execute("UPDATE documents.runs SET id = gen_random_uuid()")
    assert await logged() == [upserts[document]]
    # Which one is the last.
    await connection.execute("UPDATE documents.runs SET created_at = created_at + interval '1 hour'")
    assert await logged() == [upserts[document]]
    await connection.execute("UPDATE documents.runs SET input_file_version_id = %s", [other_version])
    assert sorted(await logged()) == sorted(upserts.values())
    await connection.execute("UPDATE documents.runs SET status = 'done', input_file_version_id = %s", [other_version])
    assert await logged() == [upserts[other]]


@pytest.mark.req("DB-8")
async def test_wide_tables_make_no_change(
    connection: Connection, version: str, logged: Callable[[], Awaitable[Logged]]
) -> None:
    insert = "INSERT INTO documents.runs (input_file_version_id) VALUES (%s) RETURNING id"
    run = await one(connection, insert, version)
    await logged()
    await connection.execute(
        "INSERT INTO documents.run_fields SELECT %s, 'f' || n FROM generate_series(1, 500) n", [run]
    )
    await connection.execute(
        "INSERT INTO documents.run_table_columns  (run_id, table_name, column_name) VALUES (%s, 't', 'c')", [run]
    )
    await connection.execute("UPDATE documents.run_fields SET value = '1'")
    await connection.execute("DELETE FROM documents.run_table_columns")
    assert await logged() == []


@pytest.mark.req("DB-5", "DB-8")
async def test_a_cascade_makes_the_documents_own_delete_only(
    connection: Connection,
    document: str,
    workspace: str,
    version: str,
    logged: Callable[[], Awaitable[Logged]],
) -> None:
    await connection.execute("INSERT INTO documents.file_tags VALUES (%s, 't')", [document])
    await connection.execute("INSERT INTO documents.runs (input_file_version_id) VALUES (%s)", [version])
    await logged()
    await connection.execute("DELETE FROM documents.workspaces")
    assert await logged() == [(document, "delete", False, workspace)]


@pytest.mark.req("DB-9")
async def test_the_doorbell_names_feed_workspace_and_number(
    connection: Connection, document: str, workspace: str
) -> None:
    await connection.execute("LISTEN changefeed")
    for _ in range(2):  # the first finds the document, and arms nothing
        await connection.execute("SELECT * FROM changefeed_log.make_tick_1(false, arm => true)")
    await connection.execute("UPDATE documents.files SET title = 'c'")
    notification = await anext(connection.notifies(timeout=10, stop_after=1))
    assert json.loads(notification.payload) == {"feed": 1, "seq": 2, "partition_key": workspace, "bell": 1000}
    await connection.execute("UPDATE documents.files SET title = repeat('x', 100000)")
    notification = await anext(connection.notifies(timeout=10, stop_after=1))
    assert len(notification.payload) < 8000


async def test_an_image_shows_the_document_as_lists_do(connection: Connection, document: str, version: str) -> None:
    await connection.execute("INSERT INTO documents.file_tags VALUES (%s, 'b'), (%s, 'a')", [document, document])
    await connection.execute(
        "INSERT INTO documents.runs (input_file_version_id, output) VALUES (%s, '{\"n\": 12345678901234567890.10}')",
        [version],
    )
    image = await one(connection, "SELECT image FROM documents.documents_image(%s)", [document])
    assert '"tags":["a", "b"]' in image
    assert '"n": 12345678901234567890.10' in image
    await connection.execute("UPDATE documents.files SET deleted_at = now()")
    gone = await (await connection.execute("SELECT FROM documents.documents_image(%s)", [[document]])).fetchall()
    assert gone == []


@pytest.mark.req("P8")
async def test_no_writer_of_a_document_waits_for_another_because_of_capture(
    database: str, connection: Connection, document: str, version: str
) -> None:
    for tag in ("kept", "other"):
        await connection.execute("INSERT INTO documents.file_tags VALUES (%s, %s)", [document, tag])
    insert = "INSERT INTO documents.runs (input_file_version_id) VALUES (%s) RETURNING id"
    runs = [await one(connection, insert, version) for _ in range(2)]
    edits = [
        ("INSERT INTO documents.file_tags VALUES (%s, %s)", (document, "new")),
        ("DELETE FROM documents.file_tags WHERE file_id = %s AND tag = %s", (document, "kept")),
        ("INSERT INTO documents.runs (input_file_version_id, error) VALUES (%s, %s)", (version, "e")),
        ("UPDATE documents.runs SET status = 'done' WHERE id = %s AND status <> %s", (runs[0], "done")),
    ]
    others = [
        ("UPDATE documents.files SET title = 'meanwhile' WHERE id = %s", (document,)),
        ("INSERT INTO documents.file_tags VALUES (%s, 'meanwhile')", (document,)),
        ("DELETE FROM documents.file_tags WHERE file_id = %s AND tag = 'other'", (document,)),
        ("UPDATE documents.runs SET output = '1' WHERE id = %s", (runs[1],)),
    ]
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as second:
        await second.execute("SET lock_timeout = '3s'")
        for statement, values in edits:
            async with connection.transaction(force_rollback=True):
                done = await connection.execute(statement.encode(), values)
                assert done.rowcount == 1
                for other, other_values in others:
                    async with second.transaction(force_rollback=True):
                        done = await second.execute(other.encode(), other_values)
                        assert done.rowcount == 1


async def test_a_version_that_goes_or_changes_its_file_takes_its_runs_with_it(
    connection: Connection, document: str, version: str, workspace: str, logged: Callable[[], Awaitable[Logged]]
) -> None:
    await connection.execute("INSERT INTO documents.runs (input_file_version_id) VALUES (%s)", [version])
    other = await one(
        connection, "INSERT INTO documents.files (workspace_id, title) VALUES (%s, 'b') RETURNING id", workspace
    )
    await logged()
    await connection.execute("UPDATE documents.file_versions SET byte_size = 10")
    assert await logged() == []
    await connection.execute("UPDATE documents.file_versions SET file_id = %s", [other])
    assert sorted(await logged()) == sorted((file, "upsert", False, workspace) for file in (document, other))
    await connection.execute("DELETE FROM documents.file_versions")
    assert await logged() == [(other, "upsert", False, workspace)]
    assert '"last_run":null' in await one(connection, "SELECT image FROM documents.documents_image(%s)", [other])


SETS = """
    CREATE FUNCTION documents.sets() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        new.deleted_at := CASE new.title WHEN 'gone' THEN now() END;
        RETURN new;
    END $$;
    CREATE TRIGGER sets BEFORE UPDATE ON documents.files FOR EACH ROW EXECUTE FUNCTION documents.sets()
"""
BY_NAME = ("title = 'gone', deleted_at = now()", "deleted_at = NULL")


@pytest.mark.parametrize(
    ("alteration", "gone", "back"),
    [
        pytest.param(SETS, "title = 'gone'", "title = 'back'", id="a trigger changes what no statement names"),
        pytest.param("ALTER TABLE documents.files DISABLE TRIGGER changefeed_rekey", *BY_NAME, id="it is disabled"),
        pytest.param("DROP TRIGGER changefeed_rekey ON documents.files", *BY_NAME, id="it is not there"),
    ],
)
@pytest.mark.req("P1", "DB-2", "DB-3")
async def test_a_delete_is_one_also_where_no_trigger_tells_of_it(
    connection: Connection,
    database: str,
    document: str,
    workspace: str,
    logged: Callable[[], Awaitable[Logged]],
    alteration: str,
    gone: str,
    back: str,
) -> None:
    """Also to a session that has long had its plans."""
    for number in range(8):
        await connection.execute("UPDATE documents.files SET title = %s", [str(number)])
    assert await logged() == [(document, "upsert", False, workspace)] * 8
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as owner:
        await owner.execute(alteration.encode())
    for assignment in (gone, back, gone):
        await connection.execute(f"UPDATE documents.files SET {assignment}".encode())
        await connection.execute("SELECT changefeed.check_feeds()")
    delete = (document, "delete", False, workspace)
    assert await logged() == [delete, (document, "upsert", True, workspace), delete]


@pytest.mark.req("P1", "DB-2", "DB-3")
async def test_a_delete_is_one_also_to_who_replicates(
    connection: Connection, document: str, workspace: str, logged: Callable[[], Awaitable[Logged]]
) -> None:
    await connection.execute("UPDATE documents.files SET title = 'b'")
    await connection.execute("ALTER TABLE documents.files ENABLE ALWAYS TRIGGER changefeed_update")
    await connection.execute("SET session_replication_role = replica")
    await connection.execute("UPDATE documents.files SET deleted_at = now()")
    assert await logged() == [(document, "upsert", False, workspace), (document, "delete", False, workspace)]


@pytest.mark.req("P1", "DB-2", "DB-3")
async def test_a_delete_is_one_also_in_a_transaction_older_than_the_trigger_that_makes_it(
    connection: Connection, database: str, document: str, workspace: str, logged: Callable[[], Awaitable[Logged]]
) -> None:
    """And after it, in the same session."""
    async with connection.transaction():
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await connection.execute("SELECT 1")
        async with await psycopg.AsyncConnection.connect(database, autocommit=True) as owner:
            await owner.execute(SETS.encode())
        await connection.execute("UPDATE documents.files SET title = 'gone'")
    await connection.execute("UPDATE documents.files SET title = 'back'")
    assert await logged() == [(document, "delete", False, workspace), (document, "upsert", True, workspace)]


@pytest.mark.req("DB-2", "DB-3")
async def test_a_transaction_in_which_a_document_went_goes_on_with_ordinary_edits(
    connection: Connection, document: str, workspace: str, logged: Callable[[], Awaitable[Logged]]
) -> None:
    async with connection.transaction():
        await connection.execute("UPDATE documents.files SET deleted_at = now()")
        await connection.execute("UPDATE documents.files SET title = 'b'")
        await connection.execute("UPDATE documents.files SET deleted_at = NULL, title = 'c'")
    await connection.execute("UPDATE documents.files SET title = 'd', deleted_at = deleted_at")
    assert await logged() == [
        (document, "delete", False, workspace),
        (document, "upsert", False, workspace),
        (document, "upsert", True, workspace),
        (document, "upsert", False, workspace),
    ]


async def test_a_delete_that_a_trigger_takes_back_leaves_the_document_alive(
    connection: Connection, document: str, workspace: str, logged: Callable[[], Awaitable[Logged]]
) -> None:
    await connection.execute("""
        CREATE FUNCTION documents.takes_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            UPDATE documents.files SET deleted_at = NULL WHERE id = new.id AND deleted_at IS NOT NULL;
            RETURN NULL;
        END $$;
        CREATE TRIGGER takes_back AFTER UPDATE ON documents.files
            FOR EACH ROW WHEN (new.deleted_at IS NOT NULL) EXECUTE FUNCTION documents.takes_back()
    """)
    await connection.execute("UPDATE documents.files SET deleted_at = now()")
    assert (await logged())[-1] == (document, "upsert", False, workspace)


async def until_waiting(connection: Connection, writer: Connection) -> None:
    """Until a session waits for another one's row lock."""
    waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
    async with asyncio.timeout(30):
        while await one(connection, waits, writer.info.backend_pid) != "True":
            await connection.execute("SELECT pg_sleep(0.01)")


async def one_after_the_other(connection: Connection, database: str, first: str, second: str) -> str:
    """Two transactions, of which the second waits until the first has committed; answers the number of the second."""
    async with (
        await psycopg.AsyncConnection.connect(database) as one_writer,
        await psycopg.AsyncConnection.connect(database) as other_writer,
    ):
        await one_writer.execute(first.encode())
        waiting = asyncio.create_task(other_writer.execute(second.encode()))
        await until_waiting(connection, other_writer)
        await one_writer.commit()
        await waiting
        number = await one(other_writer, "SELECT pg_current_xact_id()")
        await other_writer.commit()
        return number


OTHERS = [
    "INSERT INTO documents.file_tags (file_id, tag) SELECT id, 'new' FROM documents.files",
    "DELETE FROM documents.file_tags",
    "INSERT INTO documents.runs (input_file_version_id) SELECT id FROM documents.file_versions",
    "UPDATE documents.runs SET status = 'done'",
]
MOVE = "UPDATE documents.files SET workspace_id = (SELECT id FROM documents.workspaces WHERE name = 'two')"


@pytest.mark.parametrize("write", OTHERS)
@pytest.mark.parametrize("move_first", [True, False])
@pytest.mark.req("P2", "P5")
async def test_a_move_and_those_who_write_to_the_document_wait_for_each_other(
    connection: Connection,
    database: str,
    document: str,
    version: str,
    logged: Callable[[], Awaitable[Logged]],
    write: str,
    move_first: bool,
) -> None:
    """So that each change is logged where its document is, and readers of one workspace miss nothing."""
    two = await one(connection, "INSERT INTO documents.workspaces (name) VALUES ('two') RETURNING id")
    await connection.execute("INSERT INTO documents.file_tags VALUES (%s, 't')", [document])
    await connection.execute("INSERT INTO documents.runs (input_file_version_id) VALUES (%s)", [version])
    await logged()
    first, second = (MOVE, write) if move_first else (write, MOVE)
    await one_after_the_other(connection, database, first, second)
    changes = await logged()
    assert changes[-1][3] == two
    if move_first:
        assert [change[3] for change in changes][-2:] == [two, two]


TO_OTHER_FILE = "UPDATE documents.file_versions SET file_id = (SELECT id FROM documents.files WHERE title = 'other')"
TO_DOCUMENT = "UPDATE documents.files SET kind = 'document'"
NEW_FILE = "00000000-0000-0000-0000-00000000000f"
TO_NEW_FILE = f"""
    INSERT INTO documents.files (id, workspace_id, title) SELECT '{NEW_FILE}', id, 'new' FROM documents.workspaces;
    UPDATE documents.file_versions SET file_id = '{NEW_FILE}'
"""
NO_RUN = "DELETE FROM documents.runs"


@pytest.mark.parametrize(
    ("decides", "write"),
    [
        *((TO_OTHER_FILE, write) for write in (*OTHERS[2:], NO_RUN)),
        *((TO_NEW_FILE, write) for write in (*OTHERS[2:], NO_RUN)),
        *((TO_DOCUMENT, write) for write in (*OTHERS, NO_RUN)),
    ],
)
@pytest.mark.parametrize("write_first", [True, False])
@pytest.mark.req("P1")
async def test_what_decides_whose_a_change_is_and_who_writes_it_wait_for_each_other(
    connection: Connection, database: str, document: str, version: str, decides: str, write: str, write_first: bool
) -> None:
    """So that the last change of the document that it is, is told when all that the document shows is there."""
    shown = document
    if decides == TO_OTHER_FILE:
        other = "INSERT INTO documents.files (workspace_id, title) SELECT id, 'other' FROM documents.workspaces"
        shown = await one(connection, other + " RETURNING id")
    elif decides == TO_NEW_FILE:
        shown = NEW_FILE
    else:
        await connection.execute("UPDATE documents.files SET kind = 'image'")
    await connection.execute("INSERT INTO documents.file_tags VALUES (%s, 't')", [document])
    await connection.execute("INSERT INTO documents.runs (input_file_version_id) VALUES (%s)", [version])
    first, second = (write, decides) if write_first else (decides, write)
    last = await one_after_the_other(connection, database, first, second)
    told = "SELECT xid FROM changefeed_log.log_1 WHERE key = %s ORDER BY seq DESC LIMIT 1"
    assert await one(connection, told, shown) == last


@pytest.mark.parametrize("write", OTHERS)
@pytest.mark.req("P8")
async def test_an_ordinary_edit_waits_for_nobody_and_nobody_for_it(
    connection: Connection, database: str, document: str, version: str, write: str
) -> None:
    await connection.execute("INSERT INTO documents.file_tags VALUES (%s, 't')", [document])
    await connection.execute("INSERT INTO documents.runs (input_file_version_id) VALUES (%s)", [version])
    async with await psycopg.AsyncConnection.connect(database) as editor:
        await editor.execute("UPDATE documents.files SET title = 'edited'")
        await connection.execute("SET lock_timeout = '5s'")
        await connection.execute(write.encode())
        await connection.execute("SET lock_timeout = 0")
        await editor.commit()
        await editor.execute(write.replace("'new'", "'newer'").encode())
        await connection.execute("UPDATE documents.files SET title = 'edited again'")


@pytest.mark.parametrize("parent_first", [False, True])
async def test_who_locks_the_file_first_meets_no_deadlock_beside_a_delete_of_it(
    connection: Connection, database: str, document: str, version: str, parent_first: bool
) -> None:
    """As docs/providers/postgres.md says: the delete has the file and comes to its tags and runs, which another has."""
    await connection.execute("INSERT INTO documents.file_tags VALUES (%s, 't')", [document])
    await connection.execute("INSERT INTO documents.runs (input_file_version_id) VALUES (%s)", [version])
    async with (
        await psycopg.AsyncConnection.connect(database) as deleter,
        await psycopg.AsyncConnection.connect(database) as writer,
    ):
        # Whoever waits last finds the deadlock: the delete, so that the other one lives.
        await deleter.execute("SET deadlock_timeout = '1ms'")
        await writer.execute("SET deadlock_timeout = '1min'")
        await deleter.execute("SELECT FROM documents.files FOR UPDATE")
        first = "SELECT FROM documents.files FOR KEY SHARE" if parent_first else "DELETE FROM documents.file_tags"
        waiting = asyncio.create_task(writer.execute(first.encode()))
        await until_waiting(connection, writer)
        with nullcontext() if parent_first else pytest.raises(psycopg.errors.DeadlockDetected):
            await deleter.execute("DELETE FROM documents.files")
        await deleter.commit()
        await waiting
        await writer.execute("UPDATE documents.runs SET status = 'done'")
        await writer.commit()
    assert await one(connection, "SELECT count(*) FROM documents.files") == ("0" if parent_first else "1")
