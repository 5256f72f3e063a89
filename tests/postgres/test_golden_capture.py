"""The capture of one model table, as it is made, for people to read. `UPDATE_SCHEMA=1` writes it anew."""

import os
import re
from pathlib import Path

import psycopg
import pytest

from tests.postgres.test_watch import watch

_GOLDEN = Path(__file__).parents[2] / "migrations" / "capture.golden.sql"
_HEADER = """-- What capture makes of this table, once a statement and once a row. Made by `make schema`; do not edit.
--     create table orders (id int primary key, space int not null, note text);
--     select changefeed.watch('orders', partition_key => '{space}');
-- docs/providers/postgres.md walks it. The number of the table and of its shape differ from database to database.
"""
_PARTS = """
    SELECT pg_get_functiondef(p.oid) || ';' FROM pg_proc p
    WHERE p.pronamespace = 'changefeed_log'::regnamespace AND starts_with(p.proname, 'capture_')
    UNION ALL
    SELECT pg_get_triggerdef(t.oid) || ';' FROM pg_trigger t WHERE t.tgrelid = 'orders'::regclass AND NOT t.tgisinternal
    ORDER BY 1
"""


@pytest.mark.req("DB-12")
async def test_the_capture_of_a_model_table_is_the_one_that_is_shown(log_database: str) -> None:
    made = [_HEADER]
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection:
        await connection.execute("CREATE TABLE orders (id int PRIMARY KEY, space int NOT NULL, note text)")
        for options in ("", ", always => true"):
            await watch(connection, "'orders', partition_key => '{space}'" + options)
            made += [part for (part,) in await (await connection.execute(_PARTS.encode())).fetchall()]
            await connection.execute("SELECT changefeed.unwatch('orders')")
    text = re.sub(r"'\d+'::pg_catalog.regclass", "'<table>'::pg_catalog.regclass", "\n\n".join(made))
    text = re.sub(r"'[0-9a-f]{64}'", "'<shape>'", text) + "\n"
    if os.environ.get("UPDATE_SCHEMA"):
        _GOLDEN.write_text(text)
    assert _GOLDEN.read_text() == text, "run make schema and commit the result"
