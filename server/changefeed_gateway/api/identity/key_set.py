"""The issuer's public keys (JSON Web Key Set, RFC 7517), from a file or a URL."""

import asyncio
import contextvars
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from http.client import HTTPException
from typing import Any, Final

import jwt
import structlog
from structlog.typing import FilteringBoundLogger

_MOST_BYTES: Final = 1_000_000
_MOST_KEYS: Final = 100
_MOST_OF_AN_ID: Final = 8
"""Keys of one id, or without one: each costs whoever presents a bad token's verifier a try. A rotation has two."""
_SECONDS_TO_FETCH: Final = 5.0
_PAUSE: Final = timedelta(seconds=10)
"""Between two looks for a key that is not there: callers choose what keys they name."""
_ALGORITHMS_OF: Final = {"RSA": ("RS", "PS"), "EC": ("ES",), "OKP": ("EdDSA",)}
"""Beginnings of the algorithms that a kind of key can verify. None of `oct`: a shared secret is no public key."""

_log: FilteringBoundLogger = structlog.get_logger("changefeed_gateway.identity")


_Keys = Mapping[tuple[str, str], tuple[jwt.PyJWK, ...]]
"""By id, empty without one, and algorithm."""


class KeySet:
    """Public keys by id and algorithm. Looked up in memory; read or fetched in a thread."""

    def __init__(self, read: Callable[[], bytes], algorithms: Sequence[str]) -> None:
        """Begin empty: `load` or the first `find` fills it. `read` may block."""
        self._read, self._algorithms = read, tuple(algorithms)
        self._keys: _Keys = {}
        self.generation = 0
        """Changes with the keys."""
        self._looked_at = float("-inf")
        self._loading: asyncio.Task[None] | None = None

    def load(self) -> None:
        """Read the keys; blocks. Raises ValueError or OSError, and changes nothing, when they cannot be had."""
        self._take(_parsed(self._read(), self._algorithms))

    async def reload(self) -> None:
        """`load` in a thread. Whoever asks meanwhile waits for the same one, but not for long. Raises as `load`."""
        if self._loading is None or not self._is_loading:
            self._looked_at = time.monotonic()
            # In a context of its own: it belongs to no call.
            self._loading = asyncio.create_task(self._load_aside(), context=contextvars.Context())
            self._loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        loading = self._loading
        await asyncio.wait({loading}, timeout=_SECONDS_TO_FETCH)
        if not loading.done():
            raise TimeoutError("the issuer takes too long to answer")
        loading.result()

    async def find(self, key_id: str, algorithm: str) -> Sequence[jwt.PyJWK]:
        """The keys that a token may mean; looks for newer ones, but not often, when there is none.

        An issuer need not give its keys ids (RFC 7517, 4.5): a token of one without may be signed by any of these.
        """
        keys = self._keys.get((key_id, algorithm), ())
        if not keys and (self._is_loading or time.monotonic() - self._looked_at > _PAUSE.total_seconds()):
            try:
                await self.reload()
            except (OSError, ValueError) as error:
                _log.warning("the issuer's keys cannot be had", problem=type(error).__name__)
            keys = self._keys.get((key_id, algorithm), ())
        return keys

    @property
    def _is_loading(self) -> bool:
        return self._loading is not None and not self._loading.done()

    async def _load_aside(self) -> None:
        self._take(_parsed(await _aside(self._read), self._algorithms))

    def shows(self, key: jwt.PyJWK) -> bool:
        """Whether a key that was found is still among them."""
        return any(key is each for keys in self._keys.values() for each in keys)

    def _take(self, keys: _Keys) -> None:
        # One that stays is the same object, so that whoever was known by it still is.
        keys = {
            name: tuple(
                next((known for known in self._keys.get(name, ()) if known.key == key.key), key) for key in of_name
            )
            for name, of_name in keys.items()
        }
        if keys != self._keys:
            self._keys = keys
            self.generation += 1


async def _aside(read: Callable[[], bytes]) -> bytes:
    """Read in a thread that keeps no process from ending.

    For those of `asyncio.to_thread` its loop waits, and this one may wait for a name service, or an issuer.
    """
    loop = asyncio.get_running_loop()
    content: asyncio.Future[bytes] = loop.create_future()

    def take(work: Callable[[], None]) -> None:
        if not content.done():
            work()

    def run() -> None:
        try:
            told = partial(content.set_result, read())
        except Exception as error:
            told = partial(content.set_exception, error)
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(take, told)

    threading.Thread(target=run, name="keys of the issuer", daemon=True).start()
    return await content


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows none: it could lead away from https, and to whoever answers there."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


def fetcher(url: str) -> Callable[[], bytes]:
    """What reads a URL, in bounded time and size and without redirects; the scheme is the settings' to check."""
    opener = urllib.request.build_opener(_NoRedirects)
    if url.startswith("http:"):
        # Of this machine: a proxy that the environment names would say what the keys are.
        opener = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))

    def fetch() -> bytes:
        try:
            with opener.open(url, timeout=_SECONDS_TO_FETCH) as answer:
                return _content(answer, time.monotonic() + _SECONDS_TO_FETCH)
        except HTTPException as error:
            raise OSError(type(error).__name__) from None

    return fetch


def _content(answer: Any, until: float) -> bytes:
    """All of an answer; what drips would keep the thread, and with it every newer key, for as long as it likes."""
    content = b""
    while part := answer.read1(_MOST_BYTES):
        content += part
        if len(content) > _MOST_BYTES:
            raise ValueError("a key set of more than 1 MB")
        if time.monotonic() > until:
            raise TimeoutError("the issuer's answer does not end")
    return content


def _parsed(content: bytes, algorithms: Sequence[str]) -> _Keys:
    try:
        members = json.loads(content)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("not a JSON Web Key Set") from None
    if not isinstance(members, list) or len(members) > _MOST_KEYS:
        raise ValueError(f"a key set holds a list of at most {_MOST_KEYS} keys")
    found: dict[tuple[str, str], tuple[jwt.PyJWK, ...]] = {}
    for member in members:
        if isinstance(member, dict) and member.get("use", "sig") == "sig":
            for name, key in _usable(member, algorithms).items():
                found[name] = (*found.get(name, ()), key)
    if not found:
        raise ValueError("no key that can verify what is allowed")
    if any(len(of_name) > _MOST_OF_AN_ID for of_name in found.values()):
        raise ValueError(f"a key set has at most {_MOST_OF_AN_ID} keys of one id, or without one")
    return found


def _usable(member: dict[str, Any], algorithms: Sequence[str]) -> dict[tuple[str, str], jwt.PyJWK]:
    """One key, by its id and each of the algorithms that it may verify: its own, or all of its kind."""
    beginnings = _ALGORITHMS_OF.get(str(member.get("kty")), ())
    own = member.get("alg")
    found: dict[tuple[str, str], jwt.PyJWK] = {}
    for algorithm in algorithms:
        if own in (None, algorithm) and algorithm.startswith(beginnings or "-"):
            try:
                key = jwt.PyJWK(member, algorithm=algorithm)
                key.Algorithm.prepare_key(key.key)
            except (jwt.PyJWTError, TypeError, ValueError):
                continue  # a curve of another algorithm, or a key that is none
            found[str(member.get("kid", "")), algorithm] = key
    return found
