"""What a worker asks of the others, by way of the parent."""

import asyncio
import json
from typing import Final

from changefeed_gateway.app.workers.line import Line, NoAnswer, Question
from changefeed_gateway.core.policy import Principal

_SECONDS: Final = 3.0
"""For another worker to answer; one whose event loop stands still must not keep an operator waiting."""


class SiblingsByLine:
    """Implements `api.operator.Siblings`."""

    def __init__(self, line: Line, *, own: int, count: int) -> None:
        self._line = line
        self.own, self.count = own, count

    async def streams(self, number: int, principal: Principal, request: bytes) -> bytes | None:
        """What another one answers a caller."""
        asked = encoded_question(principal, request)
        try:
            async with asyncio.timeout(_SECONDS):
                return await self._line.ask(Question.STREAMS, b"%d\0%s" % (number, asked))
        except (NoAnswer, TimeoutError):
            return None


def encoded_question(principal: Principal, request: bytes) -> bytes:
    """Somebody's request, with who it is."""
    who = {"name": principal.name, "groups": sorted(principal.groups), "claims": principal.claims}
    return json.dumps(who).encode() + b"\0" + request


def decoded_question(content: bytes) -> tuple[Principal, bytes]:
    """Undo `encoded_question`."""
    text, _, request = content.partition(b"\0")
    who = json.loads(text)
    claims = tuple((str(name), str(value)) for name, value in who["claims"])
    return Principal(name=who["name"], groups=frozenset(who["groups"]), claims=claims), request
