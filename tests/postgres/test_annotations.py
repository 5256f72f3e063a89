"""What a transaction says of itself goes with each of its changes, if it is a small JSON object."""

from collections.abc import AsyncIterator

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import errors
from psycopg.types.json import Json

from changefeed_gateway.core.model import Beginning
from tests.postgres.conftest import Connection
from tests.postgres.reading import address, open_provider, page_read
from tests.postgres.test_watch import rows, watch

ANNOTATE = "SELECT set_config('changefeed.annotations', %s, true)"
WRITES = (
    "INSERT INTO orders VALUES (2, 'c')",
    "UPDATE orders SET note = 'n'",
    "UPDATE orders SET id = id + 10",
    "DELETE FROM orders",
    "TRUNCATE orders",
)


@pytest.fixture
async def connection(log_database: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection:
        await connection.execute("CREATE TABLE orders (id bigint PRIMARY KEY, customer text NOT NULL, note text)")
        yield connection


async def annotated(connection: Connection, said: str, *statements: str) -> None:
    """A transaction that says so of itself."""
    async with connection.transaction():
        await connection.execute(ANNOTATE, (said,))
        for statement in statements:
            await connection.execute(statement.encode())


@pytest.mark.parametrize("options", ["'orders'", "'orders', always => true"])
async def test_every_change_of_a_transaction_carries_its_annotations(
    connection: Connection, log_database: str, options: str
) -> None:
    await watch(connection, options)
    said = '{"actor": "ann", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}'
    await connection.execute("INSERT INTO orders VALUES (1, 'c')")
    await annotated(connection, said, *WRITES)
    await connection.execute("INSERT INTO orders VALUES (1, 'c')")
    async with open_provider(log_database) as provider:
        feed = await provider.open_feed(address("public.orders"))
        page = await provider.read_page(feed, page_read(Beginning()))
    annotations = [change.annotations for change in page.changes]
    assert annotations == ["", *[said] * (len(annotations) - 2), ""]
    assert len(annotations) > 8


BAD = [
    ("actor=ann", "changefeed.annotations is no JSON, not a JSON object", "Set an object such as"),
    ('{"actor": "ann"', "changefeed.annotations is no JSON, not a JSON object", "Set an object such as"),
    ('["ann"]', "changefeed.annotations is array, not a JSON object", "Set an object such as"),
    ("null", "changefeed.annotations is null, not a JSON object", "Set an object such as"),
    ('"ann"', "changefeed.annotations is string, not a JSON object", "Set an object such as"),
    (f'{{"actor": "{"é" * 507}"}}', "changefeed.annotations has 1027 bytes", "at most 1024 bytes"),
]


@pytest.mark.parametrize(("said", "message", "hint"), BAD, ids=[message for _, message, _ in BAD])
@pytest.mark.parametrize("options", ["'orders'", "'orders', always => true"])
async def test_what_is_no_small_object_is_refused_and_nothing_is_changed(
    connection: Connection, options: str, said: str, message: str, hint: str
) -> None:
    feed = await watch(connection, options)
    await connection.execute("INSERT INTO orders VALUES (1, 'c')")
    for statement in WRITES:
        with pytest.raises(errors.InvalidParameterValue) as refusal:
            await annotated(connection, said, statement)
        assert refusal.value.diag.message_primary == message
        assert hint in str(refusal.value.diag.message_hint)
    assert await rows(connection, feed, "op, key, annotations") == [("upsert", "1", None)]
    assert await rows(connection, feed, "(SELECT array_agg(id) FROM orders)") == [([1],)]


async def test_an_annotation_of_the_session_is_taken_too_and_an_empty_one_is_none(connection: Connection) -> None:
    feed = await watch(connection)
    await connection.execute("SET changefeed.annotations = '{}'; INSERT INTO orders VALUES (1, 'c')")
    await connection.execute("SET changefeed.annotations = ''; INSERT INTO orders VALUES (2, 'c')")
    await connection.execute("RESET changefeed.annotations; INSERT INTO orders VALUES (3, 'c')")
    assert await rows(connection, feed, "annotations") == [("{}",), (None,), (None,)]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9), lambda v: st.lists(v, max_size=3)
)


@given(said=st.dictionaries(st.text(max_size=9), VALUES, max_size=5))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_small_object_is_taken_as_it_is_written(connection: Connection, said: dict[str, object]) -> None:
    written = Json(said)
    query = "SELECT changefeed.checked_annotations(%s::text) = %s::text WHERE octet_length(%s::text) <= 1024"
    row = await (await connection.execute(query, (written, written, written))).fetchone()
    assert row in ((True,), None)
