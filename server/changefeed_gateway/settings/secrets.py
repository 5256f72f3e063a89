"""Secrets behind the settings: read from where they are kept, never shown."""

import base64
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from changefeed_gateway.core.token import TokenKey
from changefeed_gateway.settings.connections import CosmosConnection, PostgresConnection
from changefeed_gateway.settings.dsn import NotADsn, canonical_dsn
from changefeed_gateway.settings.files import make_durable, read_bytes
from changefeed_gateway.settings.model import Settings, TokenKeySettings
from changefeed_gateway.settings.problems import SettingsError, SettingsProblem

_LEAST_KEY_BYTES: Final = 16
_MADE_KEY_BYTES: Final = 32
_KEY_FILE: Final = "token.key"


def token_keys(settings: Settings) -> Sequence[TokenKey]:
    """Keys of continuation tokens; the first signs.

    Without any setting: one made once and kept, mode 0600, in the state directory, so that tokens outlive a restart.
    Raises SettingsError.
    """
    if not settings.tokens.keys:
        return [_kept_key(kept_key_file(settings))]
    return [_token_key(index, key) for index, key in enumerate(settings.tokens.keys)]


def kept_key_file(settings: Settings) -> Path:
    """Where the key is kept that is made when no setting names one."""
    return settings.state_directory / _KEY_FILE


def check_secrets(settings: Settings) -> None:
    """Read every secret that the settings name, and make none. Raises SettingsError with all that is wrong."""
    problems: list[SettingsProblem] = []
    for name, connection in settings.connections.items():
        with _noted(problems):
            if isinstance(connection, PostgresConnection) and connection.dsn_file is not None:
                dsn(name, connection)
            elif isinstance(connection, CosmosConnection):
                account_key(name, connection)
    for index, key in enumerate(settings.tokens.keys):
        with _noted(problems):
            _token_key(index, key)
    if problems:
        raise SettingsError(problems)


@contextmanager
def _noted(problems: list[SettingsProblem]) -> Iterator[None]:
    try:
        yield
    except SettingsError as error:
        problems.extend(error.problems)


def dsn(name: str, connection: PostgresConnection) -> str:
    """Connection string of a database that is not embedded, as keywords with quoted values.

    Raises SettingsError when its file is unreadable, or holds none.
    """
    if connection.dsn is not None:
        return connection.dsn.get_secret_value()
    if connection.dsn_file is None:
        raise ValueError(f"connections.{name} is embedded")
    path = f"connections.{name}.dsn_file"
    try:
        return canonical_dsn(_read(connection.dsn_file, path))
    except NotADsn as error:
        raise _refused(path, "given a path", f"a file with a connection string of libpq: {error}") from None


def account_key(name: str, connection: CosmosConnection) -> str | None:
    """The key of an account; None where an identity is used. Raises SettingsError when it is not where it should be."""
    path = f"connections.{name}"
    if connection.key is not None:
        return connection.key.get_secret_value()
    if connection.key_file is not None:
        return _read(connection.key_file, f"{path}.key_file")
    return None if connection.key_env is None else _variable(connection.key_env, f"{path}.key_env")


def _token_key(index: int, key: TokenKeySettings) -> TokenKey:
    path = f"tokens.keys.{index}"
    if key.secret is not None:
        secret = key.secret.get_secret_value()
    elif key.secret_file is not None:
        secret = _read(key.secret_file, f"{path}.secret_file")
    else:
        secret = _variable(str(key.secret_env), f"{path}.secret_env")
    # Bytes of a variable that are no UTF-8 come as surrogates, and go back as what they were.
    encoded = secret.encode("utf-8", "surrogateescape")
    if len(encoded) < _LEAST_KEY_BYTES:
        raise _refused(path, "a shorter secret", f"a secret of at least {_LEAST_KEY_BYTES} bytes")
    return TokenKey(key_id=key.id, secret=encoded)


def _variable(name: str, path: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise _refused(path, "given a name", "the name of an environment variable that is set")
    return value


def _read(file: Path, path: str) -> str:
    """A secret from its file; neither path nor content is shown: the path may be a secret in the wrong place."""
    try:
        text = read_bytes(file).decode("utf-8").strip()
    except OSError as error:
        raise _refused(path, f"given a path: {error.strerror}", "a readable text file") from None
    except ValueError:
        raise _refused(path, "given a path", "a readable text file") from None
    if not text or "\0" in text:
        raise _refused(path, "given the path of a file that is empty or no text", "a readable text file")
    return text


def _kept_key(file: Path) -> TokenKey:
    try:
        text = _make_once(file)
        seen_by_all = file.stat().st_mode & 0o007
    except OSError as error:
        raise _refused(
            "tokens.keys",
            "nothing given",
            f"a list of keys, or a state_directory where one can be kept: {file}: {error.strerror}",
        ) from None
    if not _is_whole(text):
        # Anybody could sign with what is left after a full disk or a crash: nothing, or zeros.
        raise _refused(
            "tokens.keys",
            f"nothing given, and {file} is damaged",
            "a whole key: bring the file back, or remove it to have another made; then every saved token is refused",
        )
    if seen_by_all:
        raise _refused(
            "tokens.keys",
            f"nothing given, and everybody on this machine may use {file}",
            f"a file of the gateway alone: chmod 600 {file}",
        )
    return TokenKey(key_id=hashlib.sha256(text).hexdigest()[:8], secret=text)


def _is_whole(text: bytes) -> bool:
    """Whether it is a key as `_make_once` writes it."""
    try:
        secret = base64.b64decode(text, validate=True)
    except ValueError:
        return False
    return len(secret) == _MADE_KEY_BYTES


def _make_once(file: Path) -> bytes:
    """Read the key, or make it so that of several processes at once exactly one wins, never half written."""
    new_directory = not file.parent.exists()
    file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not file.exists():
        draft = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                out.write(base64.b64encode(secrets.token_bytes(_MADE_KEY_BYTES)) + b"\n")
                out.flush()
                os.fsync(out.fileno())
            with suppress(FileExistsError):
                os.link(draft, file)
        finally:
            draft.unlink(missing_ok=True)
        # Tokens are signed from now on: a crash must not take the key's name with it, nor its directory's.
        make_durable(file.parent)
        if new_directory:
            make_durable(file.parent.parent)
    return read_bytes(file).strip()


def _refused(path: str, given: str, allowed: str) -> SettingsError:
    return SettingsError([SettingsProblem(path=path, given=given, allowed=allowed)])
