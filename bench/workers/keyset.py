"""The limit of any implementation: psycopg pages of the raw log rows in the order of their numbers, columns as text."""

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
