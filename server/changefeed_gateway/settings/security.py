"""Settings of transport, identity, policy and quotas. `docs/security.md` says what each of them promises."""

from datetime import timedelta
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, model_validator

from changefeed_gateway.settings.section import Section
from changefeed_gateway.settings.values import (
    DurationText,
    FilePath,
    Filled,
    duration_between,
    name_like,
    not_allowed,
    number_between,
    one_of,
    whole_number_between,
)

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
CertificateName = Literal["common_name", "uri", "dns"]
RightName = Literal["read", "operate"]


def _not_empty(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise not_allowed("at least one")
    return value


_AtLeastOne = AfterValidator(_not_empty)
"""Of a list without which a rule would hold for nobody, and say nothing of it."""
_Principal = Annotated[
    str,
    name_like(
        r"\*|(?:cert|jwt|token|group):\S(?:.{0,253}\S)?",
        '"*", or cert:, jwt:, token: or group: and a name, which may end in * for all that begin so',
    ),
]
_Claim = name_like(r"[A-Za-z_][A-Za-z0-9_.:/-]{0,199}", "the name of a claim")
_KeySetUrl = name_like(
    r"https://[^\s@]+|http://(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?(?:/[^\s@]*)?",
    "a URL that begins with https://, or http:// on this machine, without credentials",
)


class TlsSettings(Section):
    """Files in PEM that the gateway reads again when they change: no restart renews a certificate."""

    certificate_file: FilePath
    """The certificate, and those that lead to its root."""
    key_file: FilePath
    client_ca_file: FilePath | None = None
    """Every client must have a certificate that one of these signed (mTLS)."""
    client_name: Annotated[CertificateName, one_of(*get_args(CertificateName))] = "common_name"
    """What of a client's certificate names the principal."""


class JwtSettings(Section):
    """JSON Web Tokens of one issuer: exactly one of `jwks_file` and `jwks_url` has its public keys."""

    issuer: Annotated[str, Filled]
    audience: Annotated[str, Filled]
    jwks_file: FilePath | None = None
    jwks_url: Annotated[str | None, _KeySetUrl] = None
    algorithms: tuple[Annotated[Algorithm, one_of(*get_args(Algorithm))], ...] = ("RS256", "ES256")
    principal_claim: Annotated[str, _Claim] = "sub"
    groups_claim: Annotated[str, _Claim] = "groups"
    leeway: Annotated[timedelta, duration_between("0s", "5m"), DurationText] = timedelta(seconds=10)
    refresh_interval: Annotated[timedelta, duration_between("10s", "1d"), DurationText] = timedelta(minutes=5)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.jwks_file is None) == (self.jwks_url is None):
            raise not_allowed("exactly one of jwks_file and jwks_url")
        if not self.algorithms:
            raise not_allowed("at least one algorithm")
        return self


class GrantSettings(Section):
    """One rule of the policy; see `core.policy.Grant`."""

    principals: Annotated[tuple[_Principal, ...], _AtLeastOne]
    connections: Annotated[tuple[Annotated[str, Filled], ...], _AtLeastOne]
    collections: Annotated[tuple[Annotated[str, Filled], ...], _AtLeastOne] = ("*",)
    partition_keys: tuple[str, ...] | None = None
    partition_key_claim: Annotated[str | None, _Claim] = None
    items: bool = True
    rights: Annotated[tuple[Annotated[RightName, one_of(*get_args(RightName))], ...], _AtLeastOne] = ("read",)


class QuotaSettings(Section):
    """What each of some principals may take; the first quota that names a principal is its own."""

    principals: Annotated[tuple[_Principal, ...], _AtLeastOne]
    streams: Annotated[int | None, whole_number_between(0, 100_000)] = None
    reads_per_second: Annotated[float | None, number_between(0.01, 100_000)] = None
    bytes_per_second: Annotated[float | None, number_between(1_000, 10_000_000_000)] = None


class SecuritySettings(Section):
    """Who may connect, who is known, and what they may."""

    tls: TlsSettings | None = None
    plaintext_shows_documents_and_tokens_to_the_network: bool = False
    """Lets the gateway listen beyond this machine without TLS."""
    jwt: JwtSettings | None = None
    access_tokens_file: FilePath | None = None
    """Static access tokens, a line each: a name and a token, or a name and sha256: with its digest."""
    open_health: bool = False
    """Overall health, and no more, for callers without credentials: for probes of a platform."""
    policy: tuple[GrantSettings, ...] = ()
    quotas: tuple[QuotaSettings, ...] = ()

    @property
    def asks_who_calls(self) -> bool:
        """Whether any identity is configured."""
        has_client_ca = self.tls is not None and self.tls.client_ca_file is not None
        return has_client_ca or self.jwt is not None or self.access_tokens_file is not None

    @model_validator(mode="after")
    def _known_principals(self) -> Self:
        if (self.policy or self.quotas or self.open_health) and not self.asks_who_calls:
            raise not_allowed(
                "policy, quotas and open_health only beside tls.client_ca_file, jwt or access_tokens_file"
            )
        return self

    def named_connections(self) -> set[str]:
        """Connections that the policy names."""
        return {name for grant in self.policy for name in grant.connections} - {"*"}
