"""A certificate of 127.0.0.1 and the authority that signed it, made for one test."""

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Certificate:
    """Key and certificate; `file` holds the authority's certificate as PEM, for clients to trust."""

    def __init__(self, folder: Path) -> None:
        # Two, because some clients take no authority's certificate as a server's own.
        authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        address = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
        signed = _builder("gateway of the tests", key.public_key()).add_extension(address, critical=False)
        limits = x509.BasicConstraints(ca=True, path_length=0)
        root = _builder(_AUTHORITY, authority.public_key()).add_extension(limits, critical=True)
        self._public = signed.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        self._private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.file = folder / "certificate.pem"
        self.file.write_bytes(root.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def server_credentials(self) -> grpc.ServerCredentials:
        """What a server listens with."""
        return grpc.ssl_server_credentials([(self._private, self._public)])


_AUTHORITY = "authority of the tests"


def _builder(subject: str, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _AUTHORITY)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
