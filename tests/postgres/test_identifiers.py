"""Names that users choose never leave their quotes."""

import json

import psycopg
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql

SPECIAL = [
    '"',
    "'",
    "$",
    "$body$",
    "$$",
    "%",
    "%s",
    "%1$I",
    "\\",
    ".",
    " ",
    "é",
    "😀",
    "[",
    "{",
    "i",
    "n",
    "said",
    ";--",
]


def fits(name: str) -> bool:
    return 0 < len(name.encode()) <= 63


NAMES = st.lists(st.sampled_from(SPECIAL) | st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(
    "".join
)
IDENTIFIERS = NAMES.filter(fits).filter(lambda name: not name.startswith("pg_"))


async def live(dsn: str, schema: str, table: str, columns: list[str]) -> None:
    """Watch, write, alter, check and unwatch; every change is there each time."""
    where = sql.Identifier(schema, table)
    key, part, note, later = (sql.Identifier(name) for name in columns)

    def of(text: str) -> sql.Composed:
        return sql.SQL(text).format(t=where, k=key, p=part, n=note, l=later, s=sql.Identifier(schema))

    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(of("CREATE SCHEMA {s}"))
        await connection.execute(of("CREATE TABLE {t} ({k} int PRIMARY KEY, {p} text NOT NULL, {n} text)"))
        named = of("{t}").as_string(connection)
        watch = "SELECT changefeed.watch(%s::regclass, partition_key => %s, always => %s)"
        for always in (False, True):
            row = await (await connection.execute(watch, (named, [columns[1]], always))).fetchone()
            assert row is not None
            for statement in (
                "INSERT INTO {t} VALUES (1, 'p', 'x')",
                "UPDATE {t} SET {n} = 'y'",
                "UPDATE {t} SET {k} = 2",
                "ALTER TABLE {t} RENAME {n} TO {l}",
                "UPDATE {t} SET {l} = 'z'",
                "SELECT changefeed.check_feeds()",
                "DELETE FROM {t}",
                "ALTER TABLE {t} RENAME {l} TO {n}",
            ):
                await connection.execute(of(statement))
            states = await connection.execute("SELECT stopped, renewal_problem FROM changefeed.feeds")
            assert await states.fetchall() == [(None, None)]
            log = sql.Identifier("changefeed_log", f"log_{row[0]}")
            changes = await connection.execute(sql.SQL("SELECT op, key, image FROM {} ORDER BY seq").format(log))
            found = [(op, key, image and json.loads(image)) for op, key, image in await changes.fetchall()]
            k, p, n, last = columns
            assert found == [
                ("upsert", "1", {k: 1, p: "p", n: "x"}),
                ("upsert", "1", {k: 1, p: "p", n: "y"}),
                ("delete", "1", None),
                ("upsert", "2", {k: 2, p: "p", n: "y"}),
                ("upsert", "2", {k: 2, p: "p", last: "z"}),
                ("delete", "2", None),
            ]
            await connection.execute("SELECT changefeed.unwatch(%s::regclass)", (named,))
        await connection.execute(of("DROP TABLE {t}"))
        await connection.execute(of("DROP SCHEMA {s}"))


@given(names=st.lists(IDENTIFIERS, min_size=6, max_size=6, unique=True))
@example(names=["i$body$", '"', "%I%s%%", "$function$", "i", "x" * 63])
@example(names=["said", "mode", "new_rows", "old", "n", "o"])
@example(names=["key", "partition_key", "key_", "k1", "was", "c"])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_random_names_through_watch_drift_check_and_unwatch(log_database: str, names: list[str]) -> None:
    schema, table, *columns = names
    await live(log_database, schema, table, columns)
