"""Callers known by the certificate of their connection, which gRPC has verified against the client CA."""

from functools import lru_cache
from typing import Final, Literal

from cryptography import x509

from changefeed_gateway.api.identity.caller import Identity, Presented, is_name
from changefeed_gateway.core.errors import AuthenticationFailed
from changefeed_gateway.core.policy import Principal

KIND: Final = "cert:"
Naming = Literal["common_name", "uri", "dns"]

_PROPERTY: Final = {"common_name": "x509_common_name", "uri": "peer_uri", "dns": "peer_dns"}
"""Where gRPC's auth context has each."""


class Certificates:
    """Names callers by one property of their certificate."""

    def __init__(self, naming: Naming) -> None:
        self._property = _PROPERTY[naming]
        self._naming = naming

    async def identify(self, presented: Presented) -> Identity | None:
        """Who the connection's certificate names; None where the call has a bearer token of its own, good or not.

        Raises AuthenticationFailed when it names nobody, or several.
        """
        pems = presented.certificate.get("x509_pem_cert", ())
        if not pems or presented.bearers:
            return None
        names = [name.decode(errors="replace") for name in presented.certificate.get(self._property, ())]
        if len(names) != 1 or not is_name(names[0]):
            raise AuthenticationFailed(
                f"the client certificate needs exactly one {self._naming}, which names the caller"
            )
        return Identity(principal=Principal(name=KIND + names[0]), expires_at=_end(bytes(pems[0])))


@lru_cache(maxsize=1_000)
def _end(pem: bytes) -> float:
    """When a certificate ends: gRPC looks at its handshake only, and a connection may outlive it."""
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
