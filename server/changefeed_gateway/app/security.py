"""Settings of transport, identity and policy become a door and a certificate.

What reads keys and certificates takes an eighth of the time that the gateway needs to start, and is loaded where the
settings name some.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from changefeed_gateway.api.identity.caller import Authenticator
from changefeed_gateway.api.identity.door import Door
from changefeed_gateway.api.identity.renewal import Renewable, in_a_thread
from changefeed_gateway.api.identity.static_tokens import StaticTokens
from changefeed_gateway.core.model import EntireCollection, Scope
from changefeed_gateway.core.policy import Grant, Policy, Principal, Right, is_among
from changefeed_gateway.core.quota import Quota, Quotas
from changefeed_gateway.settings import (
    JwtSettings,
    QuotaSettings,
    SecuritySettings,
    SettingsError,
    SettingsProblem,
    TlsSettings,
)
from changefeed_gateway.settings.files import read_bytes

if TYPE_CHECKING:
    from changefeed_gateway.api.identity.json_web_tokens import TokenRules
    from changefeed_gateway.api.identity.key_set import KeySet
    from changefeed_gateway.api.identity.server_certificate import CertificateRotation


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """What stands between the network and the router."""

    door: Door
    certificate: "CertificateRotation | None"
    """None: plaintext."""
    renewables: tuple[Renewable, ...]


def secured(settings: SecuritySettings, scope_of: Callable[[str], Scope]) -> Security:
    """Read every file that the settings name. Raises SettingsError for one that is not good."""
    policy = Policy(_grants(settings))
    authenticators: list[Authenticator] = []
    renewables: list[Renewable] = []
    certificate = None
    if settings.tls is not None:
        certificate = _certificate(settings.tls)
        renewables.append(Renewable(name="certificate of the port", renew=in_a_thread(certificate.load)))
    if settings.access_tokens_file is not None:
        tokens = _static_tokens(settings.access_tokens_file)
        authenticators.append(tokens)
        renewables.append(Renewable(name="static access tokens", renew=in_a_thread(tokens.load)))
    if settings.jwt is not None:
        from changefeed_gateway.api.identity.json_web_tokens import JsonWebTokens

        keys = _key_set(settings.jwt)
        authenticators.append(JsonWebTokens(_rules(settings.jwt), keys, claims=policy.claims))
        renewables.append(
            Renewable(
                name="keys of the issuer",
                renew=keys.reload,
                interval=settings.jwt.refresh_interval,
                at_once=settings.jwt.jwks_url is not None,
            )
        )
    # Last: a call's own token goes before the certificate of its connection.
    if settings.tls is not None and settings.tls.client_ca_file is not None:
        from changefeed_gateway.api.identity.certificates import Certificates

        authenticators.append(Certificates(settings.tls.client_name))
    door = Door(
        authenticators,
        policy if authenticators else None,
        _quotas(settings),
        open_health=settings.open_health,
        scope_of=scope_of,
    )
    return Security(door=door, certificate=certificate, renewables=tuple(renewables))


def check_files(settings: SecuritySettings) -> None:
    """Read every file that the settings name, and keep nothing. Raises SettingsError for one that is not good."""
    secured(settings, lambda _: EntireCollection())


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A grant as it is for one principal and address."""

    path: str
    """Of the setting."""
    rights: list[str]
    partition_keys: list[str] | None
    """None: every scope."""
    items: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What the settings let a principal do with an address."""

    rules: list[Rule]
    quota: QuotaSettings | None
    quota_path: str


def explain(
    settings: SecuritySettings,
    name: str,
    connection: str,
    collection: str,
    *,
    groups: Sequence[str] = (),
    claims: Mapping[str, str] | None = None,
) -> Explanation:
    """Say which grants reach a principal there, and which quota is its own."""
    principal = Principal(name=name, groups=frozenset(groups), claims=tuple((claims or {}).items()))
    rules = [
        Rule(
            path=f"security.policy.{number}",
            rights=sorted(right.value for right in grant.rights),
            partition_keys=None if (keys := grant.keys_of(principal)) is None else sorted(keys),
            items=grant.items,
        )
        for number, grant in enumerate(_grants(settings))
        if is_among(principal, grant.principals)
        and any(grant.covers(right, connection, collection) for right in Right)
        and grant.keys_of(principal) != frozenset()
    ]
    quotas = enumerate(settings.quotas)
    number, quota = next(((n, each) for n, each in quotas if is_among(principal, each.principals)), (0, None))
    return Explanation(rules=rules, quota=quota, quota_path=f"security.quotas.{number}" if quota else "")


def _grants(settings: SecuritySettings) -> list[Grant]:
    return [
        Grant(
            principals=grant.principals,
            connections=grant.connections,
            collections=grant.collections,
            partition_keys=grant.partition_keys,
            partition_key_claim=grant.partition_key_claim or "",
            items=grant.items,
            rights=frozenset(Right(right) for right in grant.rights),
        )
        for grant in settings.policy
    ]


def _quotas(settings: SecuritySettings) -> Quotas:
    return Quotas(
        [
            Quota(
                principals=quota.principals,
                streams=quota.streams,
                reads_per_second=quota.reads_per_second,
                bytes_per_second=quota.bytes_per_second,
            )
            for quota in settings.quotas
        ]
    )


def _certificate(tls: TlsSettings) -> "CertificateRotation":
    from changefeed_gateway.api.identity.server_certificate import CertificateRotation, ServerCertificate

    def read() -> ServerCertificate:
        return ServerCertificate(
            chain=read_bytes(tls.certificate_file),
            key=read_bytes(tls.key_file),
            client_ca=None if tls.client_ca_file is None else read_bytes(tls.client_ca_file),
        )

    with _refused("security.tls", "a certificate with its own key, and client CAs, in PEM"):
        return CertificateRotation(read)


def _static_tokens(file: Path) -> StaticTokens:
    with _refused("security.access_tokens_file", "a file with a name and a token in each line"):
        return StaticTokens(lambda: read_bytes(file).decode())


def _key_set(jwt: JwtSettings) -> "KeySet":
    from changefeed_gateway.api.identity.key_set import KeySet, fetcher

    if jwt.jwks_url is not None:
        # Not waited for: an issuer that is away must not keep the gateway from starting.
        return KeySet(fetcher(jwt.jwks_url), jwt.algorithms)
    file = jwt.jwks_file
    assert file is not None  # noqa: S101 - one of the two, by the settings
    keys = KeySet(lambda: read_bytes(file), jwt.algorithms)
    with _refused("security.jwt.jwks_file", "a JSON Web Key Set with keys for the allowed algorithms"):
        keys.load()
    return keys


def _rules(jwt: JwtSettings) -> "TokenRules":
    from changefeed_gateway.api.identity.json_web_tokens import TokenRules

    return TokenRules(
        issuer=jwt.issuer,
        audience=jwt.audience,
        algorithms=jwt.algorithms,
        principal_claim=jwt.principal_claim,
        groups_claim=jwt.groups_claim,
        leeway_seconds=jwt.leeway.total_seconds(),
    )


@contextmanager
def _refused(path: str, allowed: str) -> Iterator[None]:
    """Say which setting names what is not good, and nothing of what is in it."""
    try:
        yield
    except OSError as error:
        given = f"given a path: {error.strerror or type(error).__name__}"
    except UnicodeError:
        given = "given no text"
    except ValueError as error:
        given = str(error)
    else:
        return
    raise SettingsError([SettingsProblem(path=path, given=given, allowed=allowed)])
