"""Who asks: the signature of a request, made with one of the account's keys, or a token of Entra."""

import base64
import hashlib
import hmac
from collections.abc import Collection
from urllib.parse import parse_qsl, unquote

from tests.cosmos.server.errors import forbidden, wrong_signature
from tests.cosmos.server.message import Request

READS = ("ReadChangeFeed", "PlanQuery", "Query")


def check_authorization(request: Request, key: str, readonly_key: str, tokens: Collection[str]) -> None:
    """Raise Unauthorized for a request of somebody else, Forbidden for a write with the key that may only read."""
    said = dict(parse_qsl(unquote(request.headers.get("authorization", "")).replace("+", "%2B")))
    if said.get("type") == "aad":
        if said.get("sig") not in tokens:
            raise wrong_signature()
        return
    if said.get("type") != "master" or said.get("ver") != "1.0":
        raise wrong_signature()
    if said.get("sig") in _signatures(request, key):
        return
    if said.get("sig") not in _signatures(request, readonly_key):
        raise wrong_signature()
    if request.method != "GET" and request.call().operation not in READS:
        raise forbidden()


def _signatures(request: Request, key: str) -> set[str]:
    """A resource is signed by its name as it is, or by its rid in lower case."""
    links = {request.resource_link, request.resource_link.lower().rpartition("/")[2]}
    date = request.headers.get("x-ms-date", "").lower()
    http_date = "" if date else request.headers.get("date", "").lower()
    return {
        base64.b64encode(
            hmac.digest(
                base64.b64decode(key),
                f"{request.method.lower()}\n{request.resource_type.lower()}\n{link}\n{date}\n{http_date}\n".encode(),
                hashlib.sha256,
            )
        ).decode()
        for link in links
    }
