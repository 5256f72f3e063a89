"""What every built-in type looks like in an image, and that its values survive the way through JSON exactly."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from changefeed_gateway.core.model import Beginning
from tests.postgres.conftest import Connection
from tests.postgres.reading import address, open_provider, page_read, read_all


@dataclass(frozen=True, slots=True)
class Column:
    """A type, and literals of its edge values; or SQL expressions, where a literal would be too long."""

    type: str
    literals: tuple[str, ...] = ()
    expressions: tuple[str, ...] = ()

    @property
    def values(self) -> list[str]:
        """SQL for each value, NULL among them."""
        quoted = ["'" + literal.replace("'", "''") + "'" for literal in self.literals]
        return [f"({value})::{self.type}" for value in (*quoted, *self.expressions, "NULL")]


TYPES = [
    Column("smallint", ("-32768", "32767", "0")),
    Column("integer", ("-2147483648", "2147483647")),
    Column("bigint", ("-9223372036854775808", "9223372036854775807", "9007199254740993")),
    Column("numeric", ("NaN", "Infinity", "-Infinity", "1.10", "0.000", "1e-100", "9" * 100 + "." + "1" * 100, "-0")),
    Column("numeric(10,2)", ("12345678.90", "NaN")),
    Column(
        "real", ("NaN", "Infinity", "-Infinity", "-0", "0.1", "1.17549435e-38", "3.4028235e38", "1e-45", "16777217")
    ),
    Column("double precision", ("NaN", "Infinity", "-Infinity", "-0", "0.1", "5e-324", "1.7976931348623157e308")),
    Column("double precision", ("0.30000000000000004", "9007199254740993", "123456789012345680")),
    Column("money", ("-92233720368547758.08", "92233720368547758.07", "1234.50")),
    Column(
        "text",
        ("", " ", 'a"b\\c', "line\nbreak\ttab", "ü€😀", "null", "\u2028\u0001\u007f", "{}", "[1]"),
        ("repeat('x', 1000)",),
    ),
    Column("varchar(20)", ("a  ", "")),
    Column("char(5)", ("ab", "")),
    Column('"char"', ("x",)),
    Column("name", ("a name",)),
    Column("bytea", ("", "\\x00", "\\x00ff5c27", "\\xdeadbeef")),
    Column("timestamp", ("infinity", "-infinity", "2026-02-28 23:59:59.999999", "0001-01-01 00:00:00 BC")),
    Column("timestamp", ("4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999")),
    Column("timestamptz", ("infinity", "-infinity", "2026-03-29 02:30:00+02", "1890-01-01 00:00:00.000001+01:23:45")),
    Column("timestamptz", ("4713-01-01 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00")),
    Column("date", ("infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "2024-02-29")),
    Column("time", ("00:00:00", "24:00:00", "12:34:56.789012")),
    Column("timetz", ("00:00:00+15:59:59", "24:00:00-15:59:59", "12:34:56.789012+05:30")),
    Column("interval", ("1 year -2 months 3 days -04:05:06.789012", "-178000000 years", "0", "1 mon", "30 days")),
    Column("boolean", ("t", "f")),
    Column("uuid", ("00000000-0000-0000-0000-000000000000", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11")),
    Column("json", ('{"b": 1.10, "a":  null, "a": 2}', "[1e400]")),
    Column("jsonb", ('{"b": 1.10, "a": null}', "12345678901234567890.12345678901234567890", '""', "[]")),
    Column("jsonpath", ("$.a[*] ? (@ > 1)",)),
    Column("integer[]", ("{}", "{1,NULL,3}", "{{1,2},{3,NULL}}", "{{{1},{2}},{{3},{4}}}")),
    Column("text[]", ("{}", '{"a,b","\\"","NULL",NULL,"",{}}'.replace(",{}", ""), "{{a,b},{c,d}}")),
    Column("numeric[]", ("{NaN,1.10,Infinity}",)),
    Column("timestamptz[]", ("{infinity,2026-03-29 02:30:00.000001+02}",)),
    Column("bytea[]", ('{"\\\\x00ff",NULL}',)),
    Column("jsonb[]", ('{"{\\"a\\": [1, null]}",NULL}',)),
    Column("int4range", ("empty", "(,)", "[1,10)", "[1,)")),
    Column("int8range", ("[-9223372036854775808,9223372036854775807)",)),
    Column("numrange", ("[1.10,2.20]", "(NaN,)", "(,1]")),
    Column("daterange", ("[2026-01-01,2026-02-01)", "[-infinity,infinity]", "empty")),
    Column("tsrange", ('["2026-01-01 00:00:00.000001",infinity)',)),
    Column("tstzrange", ('["2026-01-01 00:00:00.000001+02","2026-06-01 00:00:00-05")',)),
    Column("int4multirange", ("{}", "{[1,3),[5,7)}")),
    Column("nummultirange", ("{[1.1,2.2],(5,)}",)),
    Column("tstzmultirange", ('{["2026-01-01 00:00:00+02","2026-06-01 00:00:00-05")}',)),
    Column("mood", ("sad", 'it\'s "ok"')),
    Column("mood[]", ("{sad,NULL}",)),
    Column("positive", ("1.50", "99999999999999999999")),
    Column("day_of", ("2026-01-01", "infinity")),
    Column("pair", ('(1,"a ""b"", c","{1,2}")', "(,,)", '(1,"",)')),
    Column("pair[]", ('{"(1,a,)",NULL}',)),
    Column("nested", ('("(1,a,{1})","2026-01-01 00:00:00+00")',)),
    Column("inet", ("0.0.0.0/0", "192.168.1.5/24", "::1", "fe80::1/64")),
    Column("cidr", ("10.0.0.0/8", "::/0")),
    Column("macaddr", ("08:00:2b:01:02:03",)),
    Column("macaddr8", ("08:00:2b:01:02:03:04:05",)),
    Column("bit(5)", ("10101", "00000")),
    Column("varbit", ("", "1", "0" * 70)),
    Column("point", ("(0.1,-1e300)", "(NaN,Infinity)", "(0.30000000000000004,5e-324)")),
    Column("line", ("{1,-2,0.30000000000000004}",)),
    Column("lseg", ("[(0.1,0.2),(0.30000000000000004,4)]",)),
    Column("box", ("(1.1,2.2),(0.1,0.30000000000000004)",)),
    Column("path", ("[(0,0),(1.1,2)]", "((0,0),(1,0.30000000000000004))")),
    Column("polygon", ("((0,0),(1.1,2),(3,0.30000000000000004))",)),
    Column("circle", ("<(0.1,0.2),0.30000000000000004>",)),
    Column("tsvector", ("", "'it''s':1A,2B 'fat':3")),
    Column("tsquery", ("", "'fat' & !'rat':A* | 'x' <2> 'y'")),
    Column("oid", ("0", "4294967295")),
    Column("xid", ("4294967295",)),
    Column("xid8", ("18446744073709551615",)),
    Column("cid", ("4294967295",)),
    Column("tid", ("(4294967295,65535)",)),
    Column("pg_lsn", ("0/0", "FFFFFFFF/FFFFFFFF")),
    Column("pg_snapshot", ("10:20:10,14,15",)),
    Column("regclass", ("pg_catalog.pg_class", "values_table")),
    Column("regtype", ("integer", "mood", "-")),
]
XML = Column("xml", ('<a b="1">é &amp; <c/></a>', "text, no element", "<a/><b/>", " "))
SESSIONS = [
    {},
    {
        "timezone": "Asia/Kathmandu",
        "datestyle": "German, DMY",
        "intervalstyle": "sql_standard",
        "bytea_output": "escape",
        "extra_float_digits": "-15",
        "search_path": "public, pg_catalog",
    },
]


@pytest.fixture
async def connection(log_database: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection:
        await connection.execute("CREATE TYPE mood AS ENUM ('sad', 'it''s \"ok\"')")
        await connection.execute("CREATE DOMAIN positive AS numeric CHECK (value > 0)")
        await connection.execute("CREATE DOMAIN day_of AS date")
        await connection.execute("CREATE TYPE pair AS (number int, words text, list int[])")
        await connection.execute("CREATE TYPE nested AS (inner_pair pair, at timestamptz)")
        await connection.execute("CREATE TABLE values_table (id int PRIMARY KEY)")
        yield connection


async def images(dsn: str, collection: str) -> list[str]:
    """Images of every change, as consumers get them: JSON text."""
    async with open_provider(dsn) as provider:
        feed = await provider.open_feed(address(collection))
        changes, _ = await read_all(provider, feed, page_read(Beginning()))
    return [change.item for change in changes if change.item]


@pytest.mark.parametrize("session", SESSIONS, ids=["defaults", "strange"])
async def test_every_value_survives_exactly(connection: Connection, log_database: str, session: dict[str, str]) -> None:
    """Whatever the writer's session; compared byte by byte with what is stored."""
    types = TYPES if "xml" in await lacking(connection) else [*TYPES, XML]
    columns = ", ".join(f"c{number} {column.type}" for number, column in enumerate(types))
    await connection.execute(f"CREATE TABLE everything (id int PRIMARY KEY, {columns})".encode())
    await connection.execute("SELECT changefeed.watch('everything')")
    longest = max(len(column.values) for column in types)
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as writer:
        for setting in session.items():
            await writer.execute("SELECT set_config(%s, %s, false)", setting)
        for number in range(longest):
            values = [column.values[number % len(column.values)] for column in types]
            await writer.execute(f"INSERT INTO everything VALUES ({number}, {', '.join(values)})".encode())
    found = await images(log_database, "public.everything")
    assert [json.loads(image)["id"] for image in found] == list(range(longest))
    lost = []
    for number, column in enumerate(types):
        cursor = await connection.execute(
            f"SELECT stored.c{number}::text, image.c{number}::text FROM everything stored, unnest(%s::text[]) json,"
            f" json_populate_record(null::everything, json::json) image"
            f" WHERE image.id = stored.id AND record_image_ne(row(stored.c{number}), row(image.c{number}))".encode(),
            (found,),
        )
        lost += [(column.type, *row) for row in await cursor.fetchall()]
    assert lost == []


OPTIONAL = {"xml": "SELECT '<a/>'::xml", "hstore": "CREATE EXTENSION hstore"}
"""Types that a server may be built without, and what it refuses then."""


async def lacking(connection: Connection) -> set[str]:
    """Those that this server refuses itself."""
    found = set()
    for type_, statement in OPTIONAL.items():
        try:
            await connection.execute(statement.encode())
        except psycopg.errors.FeatureNotSupported:
            found.add(type_)
    return found


PAGE = Path(__file__).parents[2] / "docs/providers/postgres.md"
ROW = re.compile(r"^\| (?P<types>[^|]+) \| `(?P<stored>[^`]+)` \| `(?P<image>[^`]+)` \|$", re.MULTILINE)
NAMED = {"an enum": "mood", "a domain over `numeric`": "positive", "a composite type": "pair"}


def documented() -> list[tuple[str, str, str]]:
    """Type, literal and JSON of every row of the table in the docs."""
    section = PAGE.read_text().split("## Types in the image")[1].split("\n## ")[0]
    return [
        (type_, row["stored"], row["image"])
        for row in ROW.finditer(section)
        for type_ in ([NAMED[row["types"]]] if row["types"] in NAMED else re.findall("`([^`]+)`", row["types"]))
    ]


async def test_images_look_as_the_docs_say(connection: Connection, log_database: str) -> None:
    await connection.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    missing = await lacking(connection)
    rows = [row for row in documented() if row[0] not in missing]
    assert len(rows) > 50
    for number, (type_, stored, _) in enumerate(rows):
        await connection.execute(f"CREATE TABLE t{number} (id int PRIMARY KEY, v {type_})".encode())
        await connection.execute("SELECT changefeed.watch(%s::regclass)", (f"t{number}",))
        await connection.execute(f"INSERT INTO t{number} VALUES (1, %s)".encode(), (stored,))
    seen = [(t, s, (await images(log_database, f"public.t{n}"))[0]) for n, (t, s, _) in enumerate(rows)]
    assert seen == [(t, s, f'{{"id":1,"v":{image}}}') for t, s, image in rows]


async def test_an_hstore_is_written_as_its_text_and_read_back(connection: Connection, log_database: str) -> None:
    if "hstore" in await lacking(connection):
        with pytest.raises(psycopg.errors.UndefinedObject):
            await connection.execute("CREATE TABLE t (id int PRIMARY KEY, h hstore)")
        return
    await connection.execute("CREATE TABLE t (id int PRIMARY KEY, h hstore)")
    await connection.execute("SELECT changefeed.watch('t')")
    await connection.execute(r"""INSERT INTO t VALUES (1, '"a b"=>"1.10", b=>NULL, "\"\\"=>"ü", ""=>""'), (2, '')""")
    found = await images(log_database, "public.t")
    read = "SELECT t = json_populate_record(null::t, i::json) FROM t JOIN unnest(%s::text[]) i"
    rows = await (await connection.execute(f"{read} ON (i::json ->> 'id')::int = id".encode(), (found,))).fetchall()
    assert rows == [(True,), (True,)]


async def test_the_limits_that_the_docs_name(connection: Connection, log_database: str) -> None:
    await connection.execute("CREATE TABLE t (id int PRIMARY KEY, j json, b jsonb, a int[])")
    await connection.execute("SELECT changefeed.watch('t')")
    await connection.execute(
        """INSERT INTO t VALUES (1, 'null', 'null', '[2:3]={1,2}'), (2, '"\\u0000"', NULL, NULL)"""
    )
    first, second = await images(log_database, "public.t")
    assert first == '{"id":1,"j":null,"b":null,"a":[1,2]}'
    assert json.loads(second)["j"] == "\0"
    read = "SELECT j IS NULL, b IS NULL, a::text FROM json_populate_record(null::t, %s::json)"
    assert await (await connection.execute(read, (first,))).fetchone() == (True, True, "{1,2}")
    with pytest.raises(psycopg.errors.UntranslatableCharacter):
        await connection.execute(read, (second,))
