"""Continuation tokens: a signed envelope around a provider's cursor, bound to one collection and scope."""

import base64
import binascii
import hashlib
import hmac
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from changefeed_gateway.core.errors import InvalidRequest, Reason
from changefeed_gateway.core.model import (
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
MAX_TOKEN_CHARS: Final = 1_000_000
_MAX_CURSOR_BYTES: Final = 4_000_000
_REMEDY: Final = "pass a continuation_token of this gateway unchanged"


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

    def issue(self, feed: Feed, scope: Scope, cursor: Cursor) -> str:
        """Make the token of a position."""
        body = {
            "schemaVersion": SCHEMA_VERSION,
            "providerId": feed.provider_id,
            "resourceFingerprint": fingerprint(feed),
            "providerCursor": _pack(cursor),
            "scope": _scope_to_json(scope),
            "issuedAt": int(self._now().timestamp()),
            "keyId": self._signer.key_id,
        }
        body["signature"] = _sign(self._signer, body)
        return _b64(_dump(body))

    def open(self, token: str) -> Envelope:
        """Read a token and check its signature.

        Raises InvalidRequest with TOKEN_MALFORMED, TOKEN_VERSION (before anything a later version may have changed)
        or TOKEN_SIGNATURE.
        """
        body = _parse(token)
        if body.get("schemaVersion") != SCHEMA_VERSION:
            raise _refused(Reason.TOKEN_VERSION, "made by another version of the gateway; " + _REMEDY)
        self._verify(body)
        try:
            return Envelope(
                provider_id=str(body["providerId"]),
                fingerprint=Fingerprint(str(body["resourceFingerprint"])),
                scope=_scope_from_json(body["scope"]),
                cursor=_unpack(str(body["providerCursor"])),
                issue_time=datetime.fromtimestamp(int(str(body["issuedAt"])), UTC),
                key_id=str(body["keyId"]),
            )
        except (KeyError, ValueError, zlib.error) as error:
            raise _refused(Reason.TOKEN_MALFORMED, "not readable; " + _REMEDY) from error

    def open_for(self, feed: Feed, scope: Scope | None, token: str) -> Envelope:
        """Open a token and check that it belongs to this collection, incarnation and scope (None: the token's own).

        Raises InvalidRequest with the reasons of `open`, or TOKEN_WRONG_PROVIDER, TOKEN_WRONG_RESOURCE,
        TOKEN_RESOURCE_RECREATED, TOKEN_WRONG_SCOPE.
        """
        envelope = self.open(token)
        if envelope.provider_id != feed.provider_id:
            raise _refused(
                Reason.TOKEN_WRONG_PROVIDER,
                f"made by provider {envelope.provider_id!r}, this collection is on {feed.provider_id!r}",
            )
        resource, _, incarnation = fingerprint(feed).partition(".")
        token_resource, _, token_incarnation = envelope.fingerprint.partition(".")
        if token_resource != resource:
            raise _refused(
                Reason.TOKEN_WRONG_RESOURCE,
                "made for another collection; use the address it came from",
            )
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

    def _verify(self, body: dict[str, object]) -> None:
        unsigned = {name: value for name, value in body.items() if name != "signature"}
        key = self._keys.get(str(body.get("keyId")))
        signature = body.get("signature")
        if key is None or not isinstance(signature, str) or not signature.isascii():
            raise _refused(Reason.TOKEN_SIGNATURE, "signed by a key this gateway does not have; " + _REMEDY)
        if not hmac.compare_digest(signature, _sign(key, unsigned)):
            raise _refused(Reason.TOKEN_SIGNATURE, "altered; " + _REMEDY)


def _refused(reason: Reason, why: str) -> InvalidRequest:
    return InvalidRequest.field("start_position.continuation_token", why, reason=reason)


def _parse(token: str) -> dict[str, object]:
    try:
        if not token.isascii() or len(token) > MAX_TOKEN_CHARS:
            raise ValueError("not a token")
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        body = json.loads(raw)
        # Only the one canonical spelling is a token: base64 and JSON both have others for the same content.
        if not isinstance(body, dict) or _dump(body) != raw or _b64(raw) != token:
            raise ValueError("not canonical")
    except (ValueError, RecursionError, binascii.Error) as error:
        raise _refused(Reason.TOKEN_MALFORMED, "not a token; " + _REMEDY) from error
    return body


def _dump(body: dict[str, object]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _sign(key: TokenKey, body: dict[str, object]) -> str:
    return _b64(hmac.digest(key.secret, _dump(body), "sha256"))


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
