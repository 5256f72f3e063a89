"""Who says who callers are: a certificate authority and an issuer of web tokens, made anew for a test."""

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in PEM."""

    chain: bytes
    key: bytes


class Authority:
    """Signs certificates of servers on loopback and of clients."""

    def __init__(self, name: str = "test CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key, timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.pem = builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def server(self, *names: str) -> Pair:
        """The certificate of a server on this machine."""
        hosts = [x509.IPAddress(ip_address("127.0.0.1")), *(x509.DNSName(name) for name in ("localhost", *names))]
        return self._signed("gateway", hosts, timedelta(days=1))

    def client(self, common_name: str, *, uris: tuple[str, ...] = (), valid_for: timedelta = timedelta(days=1)) -> Pair:
        """The certificate of a client."""
        return self._signed(common_name, [x509.UniformResourceIdentifier(uri) for uri in uris], valid_for)

    def _signed(self, common_name: str, names: list[Any], valid_for: timedelta) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
        builder = self._builder(subject, key, valid_for)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        chain = builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)
        return Pair(chain, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def _builder(self, subject: x509.Name, key: Any, valid_for: timedelta) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + valid_for)
        )


@dataclass
class Issuer:
    """Signs web tokens; its key set shows the keys that it has."""

    issuer: str = "https://issuer.test/"
    audience: str = "changefeed"
    keys: dict[str, tuple[str, PrivateKey]] = field(
        default_factory=lambda: {"k1": ("ES256", ec.generate_private_key(ec.SECP256R1()))}
    )

    def key_set(self, *, named: bool = True, **of_each: object) -> bytes:
        """The public keys; not `named`, without ids."""
        members = []
        for key_id, (_, key) in self.keys.items():
            if isinstance(key, rsa.RSAPrivateKey):
                member = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
            else:
                member = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
            members.append(member | ({"kid": key_id} if named else {}) | of_each)
        return json.dumps({"keys": members}).encode()

    def token(
        self, key_id: str = "k1", *, lives: float = 60, without: str = "", named: bool = True, **claims: object
    ) -> str:
        """A token of this issuer, unless told otherwise for alice, for a minute."""
        algorithm, key = self.keys[key_id]
        payload = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": "alice",
            "exp": time.time() + lives,
            **claims,
        }
        payload.pop(without, None)
        return jwt.encode(payload, key, algorithm=algorithm, headers={"kid": key_id} if named else {})
