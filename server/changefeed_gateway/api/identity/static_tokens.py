"""Static access tokens from a file: for set-ups too small for an issuer of their own."""

import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Final

from changefeed_gateway.api.identity.caller import Identity, Presented
from changefeed_gateway.core.policy import Principal

KIND: Final = "token:"
MOST: Final = 200
"""Tokens of one file: each call is compared with all of them."""
SHORTEST: Final = 20
"""Characters of a token; a digest protects no short one."""
_LINE: Final = re.compile(r"([A-Za-z0-9_.@-]{1,100})[ \t]+(\S+)")
_DIGEST: Final = re.compile(r"sha256:([0-9a-fA-F]{64})")


class StaticTokens:
    """Knows callers by tokens of a file; keeps their SHA-256 digests and nothing of the tokens."""

    def __init__(self, read: Callable[[], str]) -> None:
        """Read the file; `read` answers its text. Raises ValueError as `load`."""
        self._read = read
        self._principals: dict[bytes, Principal] = {}
        self.load()

    def load(self) -> None:
        """Read the file again. Raises ValueError, which names the line and shows nothing of it, and changes nothing."""
        self._principals = _parsed(self._read())

    async def identify(self, presented: Presented) -> Identity | None:
        """Who presented a token of the file; None for any other token: it may be of another kind."""
        if len(presented.bearers) != 1:
            return None
        digest = hashlib.sha256(presented.bearers[0].encode()).digest()
        principal = self._of(digest)
        if principal is None:
            return None
        return Identity(principal=principal, holds=lambda: self._of(digest) == principal)

    def _of(self, digest: bytes) -> Principal | None:
        # Compared with every one and whole, whatever matches: how long it takes tells nothing.
        found = [principal for known, principal in self._principals.items() if hmac.compare_digest(known, digest)]
        return found[0] if found else None


def _parsed(text: str) -> dict[bytes, Principal]:
    """A line each: a name and a token, or a name and `sha256:` with the token's digest in hexadecimal digits."""
    found: dict[bytes, Principal] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        if match is None:
            raise ValueError(f"line {number} is not a name and a token")
        name, token = match.groups()
        given = _DIGEST.fullmatch(token)
        if given is None and token.lower().startswith("sha256"):
            # As a token it would let in whoever knows the digest.
            raise ValueError(f"line {number}: behind `sha256:` a digest of 64 hexadecimal digits is needed")
        if given is None and len(token) < SHORTEST:
            raise ValueError(f"line {number}: a token of at least {SHORTEST} characters is needed")
        digest = bytes.fromhex(given[1]) if given else hashlib.sha256(token.encode()).digest()
        if digest in found:
            raise ValueError(f"line {number}: its token stands twice")
        found[digest] = Principal(name=KIND + name)
    if len(found) > MOST:
        raise ValueError(f"more than {MOST} tokens: let an issuer sign JSON Web Tokens")
    return found
