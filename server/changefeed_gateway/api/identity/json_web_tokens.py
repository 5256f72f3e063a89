"""Callers known by a JSON Web Token (RFC 7519, profile of RFC 9068) of one issuer."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import jwt

from changefeed_gateway.api.identity.caller import Identity, Presented, is_name
from changefeed_gateway.api.identity.key_set import KeySet
from changefeed_gateway.core.errors import AuthenticationFailed
from changefeed_gateway.core.policy import Principal

KIND: Final = "jwt:"
ALGORITHMS: Final = (
    *(f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512)),
    "EdDSA",
)
"""All that can be allowed: what is signed with a private key. Never none, never a shared secret (RFC 8725)."""
LONGEST: Final = 16_384
"""Characters of a token; gRPC bounds all metadata of a call to about as much."""
_MOST_GROUPS: Final = 200
_MOST_KEPT: Final = 1_000
"""Verified tokens that are known again by their digest, until they end or the keys change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """What a token must say to be taken."""

    issuer: str
    audience: str
    algorithms: Sequence[str]
    principal_claim: str = "sub"
    groups_claim: str = "groups"
    leeway_seconds: float = 10.0
    """How far the issuer's clock may be from ours."""


class JsonWebTokens:
    """Verifies tokens of one issuer."""

    def __init__(self, rules: TokenRules, keys: KeySet, *, claims: Iterable[str] = ()) -> None:
        """Ask tokens for these claims too: those that a policy names."""
        if not rules.algorithms or not set(rules.algorithms) <= set(ALGORITHMS):
            raise ValueError("algorithms that are no signatures by a private key")
        self._rules, self._keys, self._claims = rules, keys, tuple(claims)
        self._verified: OrderedDict[bytes, Identity] = OrderedDict()
        self._generation = keys.generation

    async def identify(self, presented: Presented) -> Identity | None:
        """Who presented a token of the issuer. Raises AuthenticationFailed for anything that is none."""
        if len(presented.bearers) != 1:
            return None
        token = presented.bearers[0]
        if len(token) > LONGEST:
            raise AuthenticationFailed("the bearer token is longer than any that is taken")
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known(digest)
        return self._keep(digest, await self._verify(token)) if known is None else known

    def _known(self, digest: bytes) -> Identity | None:
        if self._generation != self._keys.generation:
            self._generation = self._keys.generation
            self._verified.clear()
        identity = self._verified.get(digest)
        if identity is None or (identity.expires_at or 0) <= time.time():
            return None
        self._verified.move_to_end(digest)
        return identity

    def _keep(self, digest: bytes, identity: Identity) -> Identity:
        self._verified[digest] = identity
        if len(self._verified) > _MOST_KEPT:
            self._verified.popitem(last=False)
        return identity

    async def _verify(self, token: str) -> Identity:
        try:
            header = jwt.get_unverified_header(token)
            key_id, algorithm = header.get("kid", ""), header.get("alg")
            # Before any key is looked at: what is not allowed chooses no key.
            if not isinstance(algorithm, str) or not isinstance(key_id, str) or algorithm not in self._rules.algorithms:
                raise AuthenticationFailed("the bearer token is signed in a way that is not allowed here")
            keys = await self._keys.find(key_id, algorithm)
            if not keys:
                raise AuthenticationFailed("the bearer token is signed by a key that the issuer does not show")
            payload, key = self._decoded_by_one(token, keys, algorithm)
        except jwt.ExpiredSignatureError:
            raise AuthenticationFailed("the bearer token has expired: get a new one") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            # The library's text may quote the token.
            raise AuthenticationFailed(f"the bearer token is not valid here: {type(error).__name__}") from None
        return self._identity(payload, key)

    def _decoded_by_one(
        self, token: str, keys: Sequence[jwt.PyJWK], algorithm: str
    ) -> tuple[dict[str, Any], jwt.PyJWK]:
        """What a token says, and the key that it is signed by. Raises as `_decoded`, for the last that was tried."""
        *others, last = keys
        for key in others:
            with suppress(jwt.InvalidSignatureError, jwt.InvalidKeyError):
                return self._decoded(token, key, algorithm), key
        return self._decoded(token, last, algorithm), last

    def _decoded(self, token: str, key: jwt.PyJWK, algorithm: str) -> dict[str, Any]:
        payload: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._rules.audience,
            issuer=self._rules.issuer,
            leeway=self._rules.leeway_seconds,
            options={"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
        )
        return payload

    def _identity(self, payload: dict[str, Any], key: jwt.PyJWK) -> Identity:
        name = payload.get(self._rules.principal_claim)
        if not is_name(name):
            raise AuthenticationFailed(f"the bearer token's claim {self._rules.principal_claim} names nobody")
        groups = payload.get(self._rules.groups_claim, ())
        listed = groups[:_MOST_GROUPS] if isinstance(groups, list) else ()
        principal = Principal(
            name=f"{KIND}{name}",
            groups=frozenset(group for group in listed if is_name(group)),
            claims=tuple((claim, text) for claim in self._claims if (text := _text(payload.get(claim))) is not None),
        )
        return Identity(
            principal=principal,
            expires_at=float(payload["exp"]) + self._rules.leeway_seconds,
            # What was signed by a key that the issuer has withdrawn is good no more.
            holds=lambda: self._keys.shows(key),
        )


def _text(value: object) -> str | None:
    """A claim as a partition key is written; None for what is none."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return text if isinstance(text, str) and is_name(text) else None
