"""Continuation tokens: a signed envelope around a provider's cursor, bound to one collection and scope."""

import base64
import hashlib
import hmac
import json
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from changefeed_gateway.core.errors import InvalidRequest, Reason
from changefeed_gateway.core.model import (
    Address,
    Cursor,
    EntireCollection,
    Feed,
    Fingerprint,
    LogicalPartition,
    PartitionId,
    PhysicalPartition,
    Scope,
)

SCHEMA_VERSION: Final = 1
MAX_TOKEN_CHARS: Final = 400_000
"""Longest token that is looked at. A vector of 1000 shards of DynamoDB takes 107,000 characters, and 269,000 when 1000
more wait for two parents each (measured with random numbers, which do not compress)."""
_MAX_CURSOR_BYTES: Final = 4_000_000
_MOST_KEPT: Final = 1_000
_LARGEST_KEPT: Final = 1_000
"""Bytes of a cursor whose token is kept for those who ask for the same one."""
_COMPACT: Final = json.JSONEncoder(separators=(",", ":"))
_VERSION: Final = re.compile(rb'\{"schemaVersion":(0|[1-9][0-9]{0,8})[,}]')
"""How every envelope begins; the rest is a matter of the version."""
_SEAL: Final = re.compile(rb'(,"keyId":"([A-Za-z0-9_.-]{1,64})")(,"signature":"([A-Za-z0-9_-]{43})")\}')
"""How an envelope of ours ends."""
_LONGEST_SEAL: Final = 200
_REMEDY: Final = "pass a continuation_token of this gateway unchanged"
_NO_KEY: Final = (
    "no key of this gateway verifies it. For the caller: it is of another gateway, or was altered; start anew from"
    " beginning, now or a time. For the operator: give every replica, after every restart, the same tokens.keys;"
    " without them the key is lost with the state directory"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKey:
    """A signing key: a short public id and at least 16 secret bytes."""

    key_id: str
    secret: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What a token says once its signature holds."""

    provider_id: str
    fingerprint: Fingerprint
    scope: Scope
    cursor: Cursor
    issue_time: datetime
    key_id: str
    schema_version: int = SCHEMA_VERSION


def fingerprint(feed: Feed) -> Fingerprint:
    """Identify a collection and its incarnation by two digests, so that a mismatch can say which of them differs."""
    address = feed.address
    resource = (feed.provider_id, address.connection, address.database, address.collection)
    return Fingerprint(f"{_digest(*resource)}.{_digest(feed.incarnation)}")


@lru_cache(maxsize=1_000)
def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


class TokenCodec:
    """Makes and opens tokens. Every key verifies, the first one signs, so that keys rotate without an outage."""

    def __init__(self, keys: Sequence[TokenKey], *, now: Callable[[], datetime] | None = None) -> None:
        if not keys:
            raise ValueError("at least one token key is needed")
        self._signer = keys[0]
        self._keys = {key.key_id: key for key in keys}
        self._now = now or (lambda: datetime.now(UTC))
        self._issued_at = 0
        self._issued: dict[tuple[str, Address, str, Scope, Cursor], str] = {}
        """Tokens of this second: a thousand streams of one tail ask for the same one."""

    def issue(self, feed: Feed, scope: Scope, cursor: Cursor) -> str:
        """Make the token of a position; the same one for all who ask for it within a second."""
        issued_at = int(self._now().timestamp())
        asked = feed.provider_id, feed.address, feed.incarnation, scope, cursor
        if self._issued_at != issued_at or len(self._issued) >= _MOST_KEPT:
            self._issued_at, self._issued = issued_at, {}
        token = self._issued.get(asked)
        if token is None:
            token = self._make(feed, scope, cursor, issued_at)
            if len(cursor) <= _LARGEST_KEPT:
                self._issued[asked] = token
        return token

    def _make(self, feed: Feed, scope: Scope, cursor: Cursor, issued_at: int) -> str:
        body = {
            "schemaVersion": SCHEMA_VERSION,
            "providerId": feed.provider_id,
            "resourceFingerprint": fingerprint(feed),
            "providerCursor": _pack(cursor),
            "scope": _scope_to_json(scope),
            "issuedAt": issued_at,
            "keyId": self._signer.key_id,
        }
        unsigned = _dump(body)
        return _b64(b'%b,"signature":"%b"}' % (unsigned[:-1], _sign(self._signer, unsigned).encode()))

    def open(self, token: str) -> Envelope:
        """Read a token and check its signature.

        Nothing is parsed before its signature holds, so that a stranger's bytes cost no more than their digest.
        Raises InvalidRequest with TOKEN_MALFORMED, TOKEN_VERSION (before anything a later version may have changed)
        or TOKEN_SIGNATURE.
        """
        raw = self.verify(token)
        try:
            body = json.loads(raw)
            return Envelope(
                provider_id=str(body["providerId"]),
                fingerprint=Fingerprint(str(body["resourceFingerprint"])),
                scope=_scope_from_json(body["scope"]),
                cursor=_unpack(str(body["providerCursor"])),
                issue_time=datetime.fromtimestamp(int(str(body["issuedAt"])), UTC),
                key_id=str(body["keyId"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError, zlib.error) as error:
            raise _refused(Reason.TOKEN_MALFORMED, "not readable; " + _REMEDY) from error

    def open_for(self, feed: Feed, scope: Scope | None, token: str) -> Envelope:
        """Open a token and check that it belongs to this collection, incarnation and scope (None: the token's own).

        Raises InvalidRequest with the reasons of `open`, or TOKEN_WRONG_PROVIDER, TOKEN_WRONG_RESOURCE,
        TOKEN_RESOURCE_RECREATED, TOKEN_WRONG_SCOPE.
        """
        envelope = self.open(token)
        self.check_resource(feed, envelope)
        _, _, incarnation = fingerprint(feed).partition(".")
        _, _, token_incarnation = envelope.fingerprint.partition(".")
        if token_incarnation != incarnation:
            raise _refused(
                Reason.TOKEN_RESOURCE_RECREATED,
                "made for an earlier incarnation of this collection, whose history is gone; "
                "start again from beginning or now",
            )
        if scope is not None and scope != envelope.scope:
            raise _refused(
                Reason.TOKEN_WRONG_SCOPE,
                "made for another scope; use its own scope or leave scope unset",
            )
        return envelope

    def check_resource(self, feed: Feed, envelope: Envelope) -> None:
        """Check that an envelope belongs to this collection, in whichever incarnation.

        Raises InvalidRequest with TOKEN_WRONG_PROVIDER or TOKEN_WRONG_RESOURCE.
        """
        if envelope.provider_id != feed.provider_id:
            raise _refused(
                Reason.TOKEN_WRONG_PROVIDER,
                f"made by provider {envelope.provider_id!r}, this collection is on {feed.provider_id!r}",
            )
        if envelope.fingerprint.partition(".")[0] != fingerprint(feed).partition(".")[0]:
            raise _refused(
                Reason.TOKEN_WRONG_RESOURCE,
                "made for another collection; use the address it came from",
            )

    def verify(self, token: str) -> bytes:
        """Check that a token is one of ours, as far as its signature tells; answers the envelope. Raises as `open`."""
        raw = _decoded(token)
        version = _VERSION.match(raw)
        if version is None:
            raise _refused(Reason.TOKEN_MALFORMED, "not a token; " + _REMEDY)
        if int(version[1]) != SCHEMA_VERSION:
            raise _refused(Reason.TOKEN_VERSION, "made by another version of the gateway; " + _REMEDY)
        self._verify(raw)
        return raw

    def _verify(self, raw: bytes) -> None:
        """P6: check the signature of an envelope, which is of all before it."""
        seal = _SEAL.search(raw, max(0, len(raw) - _LONGEST_SEAL))
        if seal is None or seal.end() != len(raw):
            raise _refused(Reason.TOKEN_SIGNATURE, "not signed; " + _REMEDY)
        key = self._keys.get(seal[2].decode())
        if key is None:
            raise _refused(Reason.TOKEN_SIGNATURE, _NO_KEY)
        unsigned = raw[: seal.start(3)] + b"}"
        if not hmac.compare_digest(seal[4], _sign(key, unsigned).encode()):
            raise _refused(Reason.TOKEN_SIGNATURE, _NO_KEY)


def _refused(reason: Reason, why: str) -> InvalidRequest:
    return InvalidRequest.field("start_position.continuation_token", why, reason=reason)


def _decoded(token: str) -> bytes:
    """The envelope's bytes; only their one canonical spelling is a token, base64 has others."""
    try:
        if len(token) > MAX_TOKEN_CHARS or not token.isascii():
            raise ValueError("not a token")
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        if _b64(raw) != token:
            raise ValueError("not canonical")
    except ValueError as error:
        raise _refused(Reason.TOKEN_MALFORMED, "not a token; " + _REMEDY) from error
    return raw


def _dump(body: dict[str, object]) -> bytes:
    return _COMPACT.encode(body).encode()


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _sign(key: TokenKey, unsigned: bytes) -> str:
    return _b64(hmac.digest(key.secret, unsigned, "sha256"))


def _pack(cursor: Cursor) -> str:
    packed = zlib.compress(cursor, 6) if len(cursor) > 100 else cursor
    return ("z" if len(cursor) > 100 else "r") + _b64(packed)


def _unpack(text: str) -> Cursor:
    raw = base64.urlsafe_b64decode(text[1:] + "=" * (-(len(text) - 1) % 4))
    if text[:1] == "z":
        raw = zlib.decompressobj().decompress(raw, _MAX_CURSOR_BYTES)
    return Cursor(raw)


def _scope_to_json(scope: Scope) -> dict[str, str]:
    match scope:
        case EntireCollection():
            return {}
        case PhysicalPartition(partition_id):
            return {"physical": partition_id}
        case LogicalPartition(partition_key):
            return {"logical": partition_key}


def _scope_from_json(value: object) -> Scope:
    match value:
        case {"physical": str(partition_id)}:
            return PhysicalPartition(PartitionId(partition_id))
        case {"logical": str(partition_key)}:
            return LogicalPartition(partition_key)
        case {} if not value:
            return EntireCollection()
        case _:
            raise ValueError("unknown scope")
