"""TLS of the port: the certificate that new connections are shown, read again when its files change."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCertificate:
    """What the port shows, in PEM, and by whom the certificates of clients must be signed (None: they need none)."""

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None


class CertificateRotation:
    """Credentials of a port whose certificate can be replaced while it serves; open connections keep theirs."""

    def __init__(self, read: Callable[[], ServerCertificate]) -> None:
        """Read the certificate; `read` may block. Raises ValueError when it is none, or OSError."""
        self._read = read
        self._lock = threading.Lock()
        self._shown = _checked(read())
        self._next: grpc.ServerCertificateConfiguration | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """For one port: gRPC asks for a newer certificate before every handshake."""
        needed = self._shown.client_ca is not None
        newer: Any = self._newer  # the published types do not know that None is "no change"
        return grpc.dynamic_ssl_server_credentials(_configuration(self._shown), newer, needed)

    def load(self) -> bool:
        """Read the files again; answers whether they have changed. Blocks.

        Raises ValueError or OSError, and goes on with what is shown, when they hold no pair: one that is half
        replaced is whole a moment later.
        """
        fresh = _checked(self._read())
        if fresh == self._shown:
            return False
        if (fresh.client_ca is None) != (self._shown.client_ca is None):
            raise ValueError("whether clients need a certificate does not change while the gateway runs")
        with self._lock:
            self._shown, self._next = fresh, _configuration(fresh)
        return True

    def _newer(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by threads of gRPC: answers at once, the newer certificate once."""
        with self._lock:
            newer, self._next = self._next, None
        return newer


def _configuration(certificate: ServerCertificate) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(certificate.key, certificate.chain)], certificate.client_ca)


def _checked(certificate: ServerCertificate) -> ServerCertificate:
    """Raise ValueError unless key and certificate are a pair, and the CAs are some: gRPC would refuse connections."""
    try:
        key = serialization.load_pem_private_key(certificate.key, password=None)
        shown = x509.load_pem_x509_certificates(certificate.chain)[0]
        if certificate.client_ca is not None:
            x509.load_pem_x509_certificates(certificate.client_ca)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # Without the library's text: it may show the file.
        raise ValueError(
            f"no PEM of a certificate, of its unencrypted key, or of a CA: {type(error).__name__}"
        ) from None
    if key.public_key() != shown.public_key():
        raise ValueError("the key is not the certificate's")
    return certificate
