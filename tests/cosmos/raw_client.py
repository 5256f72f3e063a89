"""Requests as the protocol is documented, without any SDK."""

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp

from tests.cosmos.server.wire import DATABASE, WireServer

AVAD = {"A-IM": "Full-Fidelity Feed", "x-ms-cosmos-changefeed-wire-format-version": "2021-09-15"}
LATEST = {"A-IM": "Incremental Feed"}


class Answered(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    """By names in lower case."""
    body: Any

    @property
    def sub_status(self) -> int:
        """0 where none is told."""
        return int(self.headers.get("x-ms-substatus", 0))

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The documents of a feed; none without a body."""
        return list(self.body["Documents"]) if self.body else []


class RawClient:
    """Signs with one key."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str) -> None:
        self._session = session
        self._url = url
        self._key = key

    async def send(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: object = None, *, date: str = ""
    ) -> Answered:
        """Send a request; `date` is one that was not signed."""
        signed_date = formatdate(usegmt=True)
        parts = [part for part in path.split("/") if part]
        kind = "" if not parts else parts[-1] if len(parts) % 2 else parts[-2]
        link = "/".join(parts[:-1] if len(parts) % 2 else parts)
        sent = {
            "x-ms-version": "2020-07-15",
            "x-ms-date": date or signed_date,
            "authorization": self.authorization(method, kind, link, signed_date),
            **(headers or {}),
        }
        content = None if body is None else json.dumps(body)
        async with self._session.request(method, f"{self._url}/{path}", headers=sent, data=content) as answer:
            told = {name.lower(): value for name, value in answer.headers.items()}
            text = await answer.text()
            return Answered(answer.status, told, json.loads(text) if text else None)

    async def ranges(self, container: str, **headers: str) -> Answered:
        """The partition key ranges of a container."""
        return await self.send("GET", f"dbs/{DATABASE}/colls/{container}/pkranges", headers)

    async def feed(
        self, container: str, mode: dict[str, str], range_id: str, etag: str | None = None, **more: str
    ) -> Answered:
        """A page of the change feed; names of more headers have `_` for `-`."""
        headers = {**mode, "x-ms-documentdb-partitionkeyrangeid": range_id}
        if etag is not None:
            headers["If-None-Match"] = etag
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        return await self.send("GET", f"dbs/{DATABASE}/colls/{container}/docs", headers)

    def authorization(self, method: str, kind: str, link: str, date: str) -> str:
        """The header that a request for a resource is signed with."""
        text = f"{method.lower()}\n{kind}\n{link}\n{date.lower()}\n\n"
        digest = hmac.digest(base64.b64decode(self._key), text.encode(), hashlib.sha256)
        return quote(f"type=master&ver=1.0&sig={base64.b64encode(digest).decode()}", safe="")


@asynccontextmanager
async def raw_client(server: WireServer, key: str = "") -> AsyncIterator[RawClient]:
    """A client that is closed in the end."""
    async with aiohttp.ClientSession() as session:
        yield RawClient(session, server.url, key or server.key)
