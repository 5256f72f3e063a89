"""The one way to a gateway's channel: plaintext or TLS, a certificate of one's own, a bearer token."""

import re
from collections.abc import Callable
from os import PathLike, stat
from pathlib import Path
from typing import Any, Final

import grpc

File = str | PathLike[str]

_MOST_BYTES: Final = 1_000_000
_TOKEN: Final = re.compile("[!-~]+")


def dialer(
    target: str,
    *,
    tls: bool | grpc.ChannelCredentials | None = None,
    ca: File | None = None,
    cert: File | None = None,
    key: File | None = None,
    bearer: Callable[[], str] | None = None,
    options: tuple[tuple[str, Any], ...] = (),
) -> Callable[[], grpc.aio.Channel]:
    """What makes channels to `host:port`, each with a connection of its own if the options say so.

    Plaintext unless `tls` is true or made credentials, or a file says so: `ca` (whom to trust, in PEM; the system's
    trust without it), `cert` and `key` (mTLS). Files are read for each channel, so that a renewed one is used from the
    next on. `bearer` is asked for the token of every call, from a thread of gRPC; it should answer from memory. What it
    raises, and a text that can be no token, is an outage: UNAVAILABLE, which a tail waits out.

    Raises ValueError for a bearer token without TLS and for half a certificate. What it returns raises OSError or
    ValueError for files that are not there, or too large to be any.
    """
    if (cert is None) != (key is None):
        raise ValueError("a certificate and its key are given together")
    made = tls if isinstance(tls, grpc.ChannelCredentials) else None
    has_files = ca is not None or cert is not None
    if made is not None and has_files:
        raise ValueError("made credentials hold certificates already: give files or credentials")
    encrypted = has_files or made is not None or bool(tls)
    if bearer is not None and not encrypted:
        raise ValueError("a bearer token is sent over TLS only")

    def dial() -> grpc.aio.Channel:
        if not encrypted:
            return grpc.aio.insecure_channel(target, options=options)
        credentials = made or grpc.ssl_channel_credentials(_content(ca), _content(key), _content(cert))
        if bearer is not None:
            credentials = grpc.composite_channel_credentials(credentials, _calls_with(bearer))
        return grpc.aio.secure_channel(target, credentials, options=options)

    return dial


class TokenFile:
    """A bearer token from a file, read again when the file changes: who renews it there need tell nobody."""

    def __init__(self, file: File) -> None:
        """Read it. Raises OSError, or ValueError when it holds no token."""
        self._file = Path(file)
        self._seen: tuple[int, int, int] | None = None
        self._token = ""
        self()

    def __call__(self) -> str:
        """The token. Raises OSError or ValueError, which fails the call that asks."""
        found = stat(self._file)
        seen = (found.st_mtime_ns, found.st_size, found.st_ino)
        if seen != self._seen:
            self._seen, self._token = seen, _token((_content(self._file) or b"").decode("ascii").strip())
        return self._token


def _content(file: File | None) -> bytes | None:
    if file is None:
        return None
    with open(file, "rb") as opened:
        content = opened.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{file} is no file of certificates or tokens: it is larger than 1 MB")
    return content


def _token(text: str) -> str:
    """A text that can be a token. Raises ValueError, which shows nothing of it."""
    if not _TOKEN.fullmatch(text):
        raise ValueError("that is no token: it is empty, or holds more than visible ASCII")
    return text


def _calls_with(bearer: Callable[[], str]) -> grpc.CallCredentials:
    def authorize(_: grpc.AuthMetadataContext, done: grpc.AuthMetadataPluginCallback) -> None:
        done((("authorization", f"Bearer {_token(bearer())}"),), None)

    return grpc.metadata_call_credentials(authorize)  # type: ignore[arg-type]  # a function is one, gRPC says
