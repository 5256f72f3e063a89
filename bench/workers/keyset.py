"""The limits of any implementation: psycopg pages of the raw log's rows in the order of their numbers, columns as text;
and of a table's own rows in the order of their keys, or all of them by COPY.
"""

import time

import psycopg
from psycopg import sql

from bench.processes import Answer, own_cost
from bench.workers.control import ready

_PAGE = """
    SELECT l.seq, l.seq::text, l.xid::text, l.changed_at::text, l.op, l.created::text, l.partition_key, l.key, l.image
    FROM {log} l WHERE l.seq > %s ORDER BY l.seq LIMIT %s
"""


def read(dsn: str, log: str, events: int, page_size: int) -> Answer:
    """Page through a log by its number."""
    statement = sql.SQL(_PAGE).format(log=sql.Identifier(*log.split(".")))
    received = content = last = 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement, (0, page_size), prepare=True).fetchall()
        ready()
        cpu, began = own_cost()["cpu"], time.perf_counter()
        while received < events:
            rows = connection.execute(statement, (last, page_size), prepare=True).fetchall()
            if not rows:
                break
            last = rows[-1][0]
            received += len(rows)
            for row in rows:
                content += len(row[6]) + len(row[8] or "")
        seconds = time.perf_counter() - began
    return {
        "events": received,
        "seconds": seconds,
        "content": content,
        "client_cpu": own_cost()["cpu"] - cpu,
    }


def rows(dsn: str, table: str, events: int, page_size: int, json: bool) -> Answer:
    """Page through a table by its key `id`, the rows as columns or as one JSON text."""
    name = sql.Identifier(*table.split("."))
    columns = sql.SQL("t.id, row_to_json(t)::text" if json else "t.*")
    statement = sql.SQL("SELECT {} FROM {} t WHERE t.id > %s ORDER BY t.id LIMIT %s").format(columns, name)
    received = content = last = 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement, (0, page_size), prepare=True).fetchall()
        ready()
        cpu, began = own_cost()["cpu"], time.perf_counter()
        while received < events and (
            found := connection.execute(statement, (last, page_size), prepare=True).fetchall()
        ):
            last = found[-1][0]
            received += len(found)
            content += sum(len(row[1]) for row in found)
        seconds = time.perf_counter() - began
    return {"events": received, "seconds": seconds, "content": content, "client_cpu": own_cost()["cpu"] - cpu}


def copy(dsn: str, table: str) -> Answer:
    """All of a table by one COPY, row by row."""
    statement = sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(*table.split(".")))
    received = content = 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        ready()
        cpu, began = own_cost()["cpu"], time.perf_counter()
        with connection.cursor().copy(statement) as copied:
            for row in copied:
                received += 1
                content += len(row)
        seconds = time.perf_counter() - began
    return {"events": received, "seconds": seconds, "content": content, "client_cpu": own_cost()["cpu"] - cpu}
