"""The limits of any implementation: psycopg pages of the raw log's rows in the order of their numbers, columns as text;
and of a table's own rows in the order of their keys, or all of them by COPY.
"""

import threading
import time
from contextlib import closing

import psycopg
from psycopg import sql

from bench.processes import Answer, own_cost
from bench.workers.control import ready, when_told_to_finish

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
    statement = _keyset(table, json=json)
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


def rows_again(dsn: str, table: str, page_size: int, per_second: float) -> Answer:
    """Pages of rows as JSON text, from the first again after the last, until told to finish; 0: without a pause."""
    statement, over = _keyset(table, json=True), threading.Event()
    received = last = 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        ready()
        when_told_to_finish(over.set)
        cpu, began = own_cost()["cpu"], time.perf_counter()
        while not over.is_set():
            found = connection.execute(statement, (last, page_size), prepare=True).fetchall()
            last = found[-1][0] if found else 0
            received += len(found)
            if per_second:
                over.wait(began + received / per_second - time.perf_counter())
        seconds = time.perf_counter() - began
    return {"events": received, "seconds": seconds, "client_cpu": own_cost()["cpu"] - cpu}


def _keyset(table: str, *, json: bool) -> sql.Composed:
    columns = sql.SQL("t.id, row_to_json(t)::text" if json else "t.*")
    name = sql.Identifier(*table.split("."))
    return sql.SQL("SELECT {} FROM {} t WHERE t.id > %s ORDER BY t.id LIMIT %s").format(columns, name)


def copy_again(dsn: str, table: str) -> Answer:
    """One COPY of a table after the other, until told to finish."""
    statement, over = sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(*table.split("."))), threading.Event()
    received = 0
    # Not left by `with`, which would wait for what is left of the last one.
    with closing(psycopg.connect(dsn, autocommit=True)) as connection:
        ready()
        when_told_to_finish(over.set)
        cpu, began = own_cost()["cpu"], time.perf_counter()
        while not over.is_set():
            with connection.cursor().copy(statement) as copied:
                for _ in copied:
                    received += 1
                    if over.is_set():
                        break
        seconds = time.perf_counter() - began
    return {"events": received, "seconds": seconds, "client_cpu": own_cost()["cpu"] - cpu}


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
