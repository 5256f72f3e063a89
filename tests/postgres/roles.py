"""Logins with the roles of the change feeds."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo


@asynccontextmanager
async def login(dsn: str, name: str, *roles: str) -> AsyncIterator[str]:
    """Connection string of a login that is a member of some roles and has no other right; gone at the end."""
    user = sql.Identifier(name)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as admin:
        await admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(user))
        for role in roles:
            await admin.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), user))
    try:
        yield make_conninfo(dsn, user=name)
    finally:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as admin:
            await admin.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(user))
            await admin.execute(sql.SQL("DROP ROLE {}").format(user))
