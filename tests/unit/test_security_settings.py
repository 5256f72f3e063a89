"""Settings of transport, identity and policy: closed unless they say otherwise, and said where they are wrong."""

import json
import os
from pathlib import Path

import pytest

from changefeed_gateway.app.security import secured
from changefeed_gateway.core.model import EntireCollection
from changefeed_gateway.settings import SettingsError, SettingsProblem, gateway_target, load_settings
from tests.api.issuers import Authority, Issuer

FAR = "listen: 0.0.0.0:1\n"
KNOWN = "access_tokens_file: t"
GRANT0 = "security.policy.0"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith("CHANGEFEED_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def problem(text: str) -> SettingsProblem:
    Path("changefeed.yaml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        secured(load_settings().security, lambda _: EntireCollection())
    (found,) = caught.value.problems
    return found


def test_beyond_this_machine_it_needs_tls_or_a_setting_that_names_the_risk() -> None:
    assert problem(FAR).path == "listen"
    assert problem(FAR + "security: {}").path == "listen"
    assert problem(FAR + "security: {plaintext_shows_documents_and_tokens_to_the_network: false}").path == "listen"
    for security in (
        "{plaintext_shows_documents_and_tokens_to_the_network: true}",
        "{tls: {certificate_file: a, key_file: b}}",
    ):
        Path("changefeed.yaml").write_text(f"{FAR}security: {security}")
        assert str(load_settings().listen) == "0.0.0.0:1"
    with pytest.raises(SettingsError, match="every address"):
        gateway_target()


@pytest.mark.parametrize(
    ("security", "path", "allowed"),
    [
        ("{policy: [{principals: ['*'], connections: ['*']}]}", "security", "only beside"),
        ("{quotas: [{principals: ['*']}]}", "security", "only beside"),
        ("{open_health: true}", "security", "only beside"),
        (
            f"{{{KNOWN}, policy: [{{principals: [alice], connections: ['*']}}]}}",
            f"{GRANT0}.principals.0",
            "jwt:",
        ),
        (f"{{{KNOWN}, policy: [{{principals: ['jwt:a']}}]}}", "security.policy.0.connections", "required"),
        (f"{{{KNOWN}, policy: [{{principals: ['*'], connections: [mian]}}]}}", "connections", "mian"),
        (
            f"{{{KNOWN}, policy: [{{principals: ['*'], connections: [main], rights: [write]}}]}}",
            "security.policy.0.rights.0",
            "one of read, operate",
        ),
        (
            f"{{{KNOWN}, policy: [{{principals: ['*'], connections: [main], item: no}}]}}",
            f"{GRANT0}.item",
            "items",
        ),
        (f"{{{KNOWN}, policy: [{{principals: [], connections: [main]}}]}}", f"{GRANT0}.principals", "at least one"),
        (f"{{{KNOWN}, policy: [{{principals: ['*'], connections: []}}]}}", f"{GRANT0}.connections", "at least one"),
        (
            f"{{{KNOWN}, policy: [{{principals: ['*'], connections: [main], collections: []}}]}}",
            f"{GRANT0}.collections",
            "at least one",
        ),
        (
            f"{{{KNOWN}, policy: [{{principals: ['*'], connections: [main], rights: []}}]}}",
            f"{GRANT0}.rights",
            "at least one",
        ),
        (f"{{{KNOWN}, quotas: [{{principals: [], streams: 1}}]}}", "security.quotas.0.principals", "at least one"),
        ("{jwt: {issuer: i, audience: a}}", "security.jwt", "exactly one"),
        ("{jwt: {issuer: i, audience: a, jwks_file: f, jwks_url: 'https://x/'}}", "security.jwt", "exactly one"),
        ("{jwt: {issuer: i, audience: a, jwks_url: 'http://example.com/'}}", "security.jwt.jwks_url", "https://"),
        (
            "{jwt: {issuer: i, audience: a, jwks_url: 'http://localhost.example/'}}",
            "security.jwt.jwks_url",
            "https",
        ),
        ("{jwt: {issuer: i, audience: a, jwks_url: 'https://u:p@x/'}}", "security.jwt.jwks_url", "credentials"),
        ("{jwt: {issuer: i, audience: a, jwks_file: f, algorithms: [HS256]}}", "security.jwt.algorithms.0", "RS256"),
        ("{jwt: {issuer: i, audience: a, jwks_file: f, algorithms: [none]}}", "security.jwt.algorithms.0", "RS256"),
        ("{jwt: {issuer: i, audience: a, jwks_file: f, algorithms: []}}", "security.jwt", "at least one"),
        ("{jwt: {issuer: i, audience: a, jwks_file: nowhere}}", "security.jwt.jwks_file", "JSON Web Key Set"),
        ("{access_tokens_file: nowhere}", "security.access_tokens_file", "a name and a token"),
        ("{tls: {certificate_file: nowhere, key_file: nowhere}}", "security.tls", "in PEM"),
        ("{tls: {certificate_file: c}}", "security.tls.key_file", "required"),
    ],
)
def test_what_is_wrong_is_named(security: str, path: str, allowed: str) -> None:
    found = problem(f"security: {security}")
    assert found.path == path
    assert allowed in found.allowed


def test_files_that_are_not_right_are_said_and_not_shown() -> None:
    Path("tokens").write_text("alice hunter2")
    found = problem("security: {access_tokens_file: tokens}")
    assert "line 1" in found.given
    assert "hunter2" not in str(found)
    pair = Authority().server()
    Path("c").write_bytes(pair.chain)
    Path("k").write_bytes(Authority().server().key)
    found = problem("security: {tls: {certificate_file: c, key_file: k}}")
    assert "not the certificate's" in found.given
    Path("f").write_text("{}")
    assert problem("security: {jwt: {issuer: i, audience: a, jwks_file: f}}").path == "security.jwt.jwks_file"


def test_everything_that_is_named_is_read_and_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority()
    pair = authority.server()
    Path("c").write_bytes(pair.chain)
    Path("k").write_bytes(pair.key)
    Path("ca").write_bytes(authority.pem)
    Path("tokens").write_text("alice 01234567890123456789")
    Path("keys").write_bytes(Issuer().key_set())
    grants = [{"principals": ["token:alice"], "connections": ["main"], "partition_key_claim": "tenant"}]
    monkeypatch.setenv("CHANGEFEED_SECURITY__POLICY", json.dumps(grants))
    Path("changefeed.yaml").write_text(
        "security: {tls: {certificate_file: c, key_file: k, client_ca_file: ca}, access_tokens_file: tokens,"
        " jwt: {issuer: i, audience: a, jwks_file: keys}}"
    )
    security = secured(load_settings().security, lambda _: EntireCollection())
    assert [each.name for each in security.renewables] == [
        "certificate of the port",
        "static access tokens",
        "keys of the issuer",
    ]
    assert security.certificate is not None
    assert security.door.policy.claims == {"tenant"}
