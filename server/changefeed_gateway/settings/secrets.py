"""Secrets behind the settings: read from where they are kept, never shown."""

import base64
import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from changefeed_gateway.core.token import TokenKey
from changefeed_gateway.settings.model import PostgresConnection, Settings, TokenKeySettings
from changefeed_gateway.settings.problems import SettingsError, SettingsProblem

_LEAST_KEY_BYTES: Final = 16
_KEY_FILE: Final = "token.key"


def token_keys(settings: Settings) -> Sequence[TokenKey]:
    """Keys of continuation tokens; the first signs.

    Without any setting: one made once and kept, mode 0600, in the state directory, so that tokens outlive a restart.
    Raises SettingsError.
    """
    if not settings.tokens.keys:
        return [_kept_key(settings.state_directory / _KEY_FILE)]
    return [_token_key(index, key) for index, key in enumerate(settings.tokens.keys)]


def dsn(name: str, connection: PostgresConnection) -> str:
    """Connection string of a database that is not embedded. Raises SettingsError when its file is unreadable."""
    if connection.dsn is not None:
        return connection.dsn.get_secret_value()
    if connection.dsn_file is None:
        raise ValueError(f"connections.{name} is embedded")
    return _read(connection.dsn_file, f"connections.{name}.dsn_file")


def _token_key(index: int, key: TokenKeySettings) -> TokenKey:
    path = f"tokens.keys.{index}"
    if key.secret is not None:
        secret = key.secret.get_secret_value()
    elif key.secret_file is not None:
        secret = _read(key.secret_file, f"{path}.secret_file")
    else:
        secret = _variable(str(key.secret_env), f"{path}.secret_env")
    if len(secret.encode()) < _LEAST_KEY_BYTES:
        raise _refused(path, "a shorter secret", f"a secret of at least {_LEAST_KEY_BYTES} bytes")
    return TokenKey(key_id=key.id, secret=secret.encode())


def _variable(name: str, path: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise _refused(path, f"given {name!r}", "an environment variable that is set")
    return value


def _read(file: Path, path: str) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise _refused(path, f"given {str(file)!r}", "a readable text file") from None


def _kept_key(file: Path) -> TokenKey:
    try:
        secret = _make_once(file)
    except OSError as error:
        raise _refused(
            "tokens.keys",
            "nothing given",
            f"a list of keys, or a state_directory where one can be kept: {file}: {error.strerror}",
        ) from None
    return TokenKey(key_id=hashlib.sha256(secret).hexdigest()[:8], secret=secret)


def _make_once(file: Path) -> bytes:
    """Read the key, or make it so that of several processes at once exactly one wins, never half written."""
    file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not file.exists():
        draft = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(base64.b64encode(secrets.token_bytes(32)) + b"\n")
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(draft, file)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return file.read_bytes().strip()


def _refused(path: str, given: str, allowed: str) -> SettingsError:
    return SettingsError([SettingsProblem(path=path, given=given, allowed=allowed)])
