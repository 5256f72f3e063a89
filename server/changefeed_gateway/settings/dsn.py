"""Connection strings of PostgreSQL, read once and here, so that no later reader can complain of one by quoting it.

The two forms, keywords and URL, are libpq's ("Connection Strings" in its manual), and what is accepted means what it
means there. Refused beyond that is what a password that was not escaped would turn into: other parts of the string.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

_NUMBERS: Final = frozenset(
    [
        "connect_timeout",
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
        "sslsni",
        "sslcompression",
        "gssdelegation",
    ]
)
_WORDS: Final[Mapping[str, frozenset[str]]] = {
    name: frozenset(words.split())
    for name, words in {
        "channel_binding": "disable prefer require",
        "gssencmode": "disable prefer require",
        "load_balance_hosts": "disable random",
        "sslcertmode": "disable allow require",
        "sslmode": "disable allow prefer require verify-ca verify-full",
        "sslnegotiation": "postgres direct",
        "target_session_attrs": "any read-write read-only primary standby prefer-standby",
    }.items()
}
_TEXTS: Final = frozenset(
    [
        "application_name",
        "client_encoding",
        "dbname",
        "fallback_application_name",
        "gsslib",
        "host",
        "hostaddr",
        "krbsrvname",
        "max_protocol_version",
        "min_protocol_version",
        "oauth_client_id",
        "oauth_client_secret",
        "oauth_issuer",
        "oauth_scope",
        "options",
        "passfile",
        "password",
        "port",
        "replication",
        "require_auth",
        "requirepeer",
        "scram_client_key",
        "scram_server_key",
        "service",
        "sslcert",
        "sslcrl",
        "sslcrldir",
        "sslkey",
        "sslkeylogfile",
        "sslpassword",
        "sslrootcert",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "user",
    ]
)
_OF_PRIMARIES: Final = ("primary", "read-write")
_IN_ENVIRONMENT: Final = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}
"""Where libpq looks for what a string leaves out ("Environment Variables" in its manual)."""
KEYWORDS: Final = _NUMBERS | _WORDS.keys() | _TEXTS

_URL: Final = re.compile(r"postgres(?:ql)?://")
_SPACE: Final = " \t\n\v\f\r"
_KEYWORD: Final = re.compile(rf"[{_SPACE}]*([^={_SPACE}]*)[{_SPACE}]*(=?)[{_SPACE}]*", re.DOTALL)
_QUOTED: Final = re.compile(r"'((?:[^'\\]|\\.)*)'", re.DOTALL)
_BARE: Final = re.compile(rf"((?:[^\\{_SPACE}]|\\.)*)", re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_PLACE: Final = re.compile(r"(\[[^\[\]]+\]|[^:\[\]]*)(?::([^\[\]]*))?", re.DOTALL)
_HOST: Final = re.compile(r"[/@].*|[\w.:%-]*", re.DOTALL)
_NEEDS_QUOTES: Final = re.compile(rf"['\\{_SPACE}]|^$")
_MOST_CHARACTERS: Final = 10_000


class NotADsn(ValueError):
    """The text is no connection string; the message says why and shows none of it."""


def canonical_dsn(text: str) -> str:
    """The same connection string as keywords with quoted values. Raises NotADsn."""
    text = text.strip()
    if len(text) > _MOST_CHARACTERS or "\0" in text:
        raise NotADsn("it is too long or no text")
    url = _URL.match(text)
    pairs = _pairs_of_url(text[url.end() :]) if url else _pairs_of_keywords(text)
    return " ".join(f"{name}={_quoted(value)}" for name, value in _checked(pairs).items())


def _checked(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in KEYWORDS:
            raise NotADsn("it has a keyword that libpq does not know; a value with spaces stands in '...'")
        if name in found:
            raise NotADsn(f"{name} stands twice")
        found[name] = value
        _check(name, value)
    _check_one_server(found)
    return found


def _check_one_server(found: Mapping[str, str]) -> None:
    """P1: connections of one pool that lead to several servers would ask one for a tick, and one behind it for rows."""
    said = {name: found.get(name, os.environ.get(variable, "")) for name, variable in _IN_ENVIRONMENT.items()}
    several = "," in said["host"] or "," in said["hostaddr"]
    balanced = said["load_balance_hosts"] == "random"
    if (several or balanced) and said["target_session_attrs"] not in _OF_PRIMARIES:
        raise NotADsn(
            "with several hosts, or load_balance_hosts=random, its connections may lead to several servers, of which"
            " one has not yet what another one has: add target_session_attrs=primary, or name one host"
        )


def _check(name: str, value: str) -> None:
    if "\0" in value:
        raise NotADsn(f"its {name} is no text")
    if name in _NUMBERS and not re.fullmatch(r"-?[0-9]{1,9}", value):
        raise NotADsn(f"its {name} is no whole number")
    if name in _WORDS and value not in _WORDS[name]:
        raise NotADsn(f"its {name} is none of {', '.join(sorted(_WORDS[name]))}")
    if name in ("host", "hostaddr") and not all(map(_HOST.fullmatch, value.split(","))):
        raise NotADsn(f"its {name} is no name, address or directory")
    if name == "port" and not all(_is_port(port) for port in value.split(",")):
        raise NotADsn("its port is no number from 1 to 65535")


def _is_port(text: str) -> bool:
    return not text or (re.fullmatch(r"[0-9]{1,5}", text) is not None and 1 <= int(text) <= 65_535)


def _pairs_of_keywords(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        keyword = _KEYWORD.match(text, at)
        if keyword is None or not keyword[2] or not keyword[1]:
            raise NotADsn("a keyword has no = and value; a value with spaces stands in '...'")
        quoted = text.startswith("'", keyword.end())
        value = (_QUOTED if quoted else _BARE).match(text, keyword.end())
        # What follows a value directly: a quote that closes too early, or a backslash at the end.
        if value is None or text[value.end() : value.end() + 1].strip(_SPACE):
            raise NotADsn("a value in quotes does not end with its quote; within it ' is written \\' and \\ is \\\\")
        yield keyword[1], _ESCAPED.sub(r"\1", value[1])
        at = value.end()


def _pairs_of_url(text: str) -> Iterator[tuple[str, str]]:
    if re.search(r"[\x00-\x20\x7f]", text):
        raise NotADsn("a URL holds no spaces: write %20")
    login, at, rest = text.partition("@") if "@" in re.split("/", text, maxsplit=1)[0] else ("", "", text)
    if "@" in rest:
        raise NotADsn("a URL holds one @, before the host: in user and password write %40 for @ and %2F for /")
    if at:
        user, _, password = login.partition(":")
        yield from _unless_empty(("user", user), ("password", password))
    places, question, options = rest.partition("?")
    places, _, database = places.partition("/")
    yield from _hosts_and_ports(places)
    yield from _unless_empty(("dbname", database))
    if question:
        yield from map(_option, options.split("&"))


def _hosts_and_ports(text: str) -> Iterator[tuple[str, str]]:
    places = [_PLACE.fullmatch(place) for place in text.split(",")]
    if not all(places):
        raise NotADsn("its address in [ ] does not end with ] or :port")
    hosts = [place[1].strip("[]") for place in places if place]
    ports = [place[2] or "" for place in places if place]
    if any(hosts) or len(hosts) > 1:
        yield "host", ",".join(map(_decoded, hosts))
    if any(ports) or len(hosts) > 1:
        yield "port", ",".join(map(_decoded, ports))


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or "=" in value:
        raise NotADsn("what follows ? are options with values, name=value, with & between them")
    if (name, value) == ("ssl", "true"):
        return "sslmode", "require"
    return _decoded(name), _decoded(value)


def _unless_empty(*pairs: tuple[str, str]) -> Iterator[tuple[str, str]]:
    yield from ((name, _decoded(value)) for name, value in pairs if value)


def _decoded(text: str) -> str:
    if re.search(r"%(?![0-9a-fA-F]{2})", text):
        raise NotADsn("a % in a URL is written %25")
    try:
        raw = re.sub(rb"%(..)", lambda code: bytes([int(code[1], 16)]), text.encode())
        return raw.decode()
    except UnicodeError:
        raise NotADsn("its percent codes are no UTF-8") from None


def _quoted(value: str) -> str:
    if not _NEEDS_QUOTES.search(value):
        return value
    return "'" + re.sub(r"(['\\])", r"\\\1", value) + "'"
