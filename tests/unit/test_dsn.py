"""Connection strings: what libpq takes means the same here, and what a password not escaped turns into is refused."""

import psycopg
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from changefeed_gateway.settings.dsn import KEYWORDS, NotADsn, canonical_dsn

MARKER = "hunter2"

_PIECES = [*"ab1:@/?&=#%[], '\\\t.", "%41", "%2f", "host", "user", "port=1", "=", "sslmode=require", "é"]
_TEXTS = st.lists(st.sampled_from(_PIECES), max_size=9).map("".join)
_FORMS = st.sampled_from(
    [
        "%s",
        "postgresql://%s",
        "postgres://u:%s@h/d?sslmode=require",
        "postgresql://h/d?application_name=%s",
        "host=h password=%s",
        "host=h password='%s' user=u",
    ]
)


@given(_FORMS, _TEXTS)
def test_what_is_accepted_means_what_libpq_reads(form: str, text: str) -> None:
    try:
        ours = canonical_dsn(form % text)
    except NotADsn:
        assume(False)
    theirs = conninfo_to_dict((form % text).strip())
    assert conninfo_to_dict(ours) == theirs
    assert canonical_dsn(ours) == ours


@given(
    st.sampled_from(
        [
            "postgresql://u:%s@h/d",
            "postgres://u:%s@h:5432/d?sslmode=require",
            "postgresql://u:%s@/d?host=/run",
            "host=h user=u dbname=d port=1 password=%s",
            "host=h user=u dbname=d port=1 password='%s'",
            "host=h password=%s user=u dbname=d port=1",
        ]
    ),
    _TEXTS,
    _TEXTS,
)
def test_no_part_of_a_password_becomes_another_part(form: str, before: str, after: str) -> None:
    """Else libpq, which shows the parts of a connection string but the password, would show it."""
    password = f"{before}{MARKER}{after}"
    try:
        accepted = canonical_dsn(form % password)
    except NotADsn as error:
        refusal = str(error)
        accepted = ""
    else:
        refusal = ""
    assert MARKER not in refusal
    assert not any(MARKER in str(value) for name, value in conninfo_to_dict(accepted).items() if name != "password")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("postgresql://u:p%zz@h/d", "%25"),
        ("postgresql://u:p%ff@h/d", "UTF-8"),
        ("postgresql://u:p%00@h/d", "no text"),
        ("postgresql://u:p@ss@h/d", "%40"),
        ("postgresql://u:p/ss@h/d", "%2F"),
        ("postgresql://u:p ss@h/d", "%20"),
        ("postgresql://u:p", "port"),
        ("postgresql://[::1/d", r"\]"),
        ("postgresql://h/d?sslmode", "options"),
        ("postgresql://h/d?sslmode=maybe", "verify-full"),
        ("postgresql://h/d?dbname=e", "twice"),
        ("postgresql://h/d?pasword=x", "keyword"),
        ("host=h password=p x", "quotes|'...'"),
        ("host=h password=p x=y", "keyword"),
        ("host=h password='p", "quote"),
        ("host=h password='p'x user=u", "quote"),
        ("host=h password=p\\", "backslash|quote"),
        ("host=h connect_timeout=soon", "whole number"),
        ("host=h port=99999", "65535"),
        ("host=a@b", "host"),
        ("host=a,b user=u", "target_session_attrs=primary"),
        ("hostaddr=10.0.0.1,10.0.0.2", "target_session_attrs=primary"),
        ("postgresql://a,b/d?target_session_attrs=prefer-standby", "target_session_attrs=primary"),
        ("postgresql://a:1,b:2/d?target_session_attrs=any", "one host"),
        ("host=reader load_balance_hosts=random target_session_attrs=standby", "one host"),
        ("=x", "keyword"),
        ("a" * 10_001, "long"),
    ],
)
def test_what_is_no_connection_string_says_why(text: str, why: str) -> None:
    with pytest.raises(NotADsn, match=why):
        canonical_dsn(text)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://[2001:db8::1]:5432/d",
        "postgresql://a:1,b:2/d?target_session_attrs=read-write",
        "host=a,b target_session_attrs=primary load_balance_hosts=random",
        "host=a target_session_attrs=standby load_balance_hosts=disable",
        "postgresql://%2Frun%2Fpostgresql/d",
        "postgresql:///d?host=/run/postgresql&ssl=true",
        "host = /run dbname = 'my \\'db\\\\' options='-c geqo=off'",
        "postgresql://u:p%40ss%2F@h/d\n",
        "service=main",
    ],
)
def test_what_libpq_takes_is_taken(text: str) -> None:
    assert conninfo_to_dict(canonical_dsn(text)) == conninfo_to_dict(text.strip())


def test_what_the_environment_adds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "a,b")
    assert canonical_dsn("host=c dbname=d"), "what the string says comes first"
    with pytest.raises(NotADsn, match="target_session_attrs=primary"):
        canonical_dsn("dbname=d")
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "read-write")
    assert canonical_dsn("dbname=d")
    monkeypatch.setenv("PGHOST", "a")
    monkeypatch.setenv("PGLOADBALANCEHOSTS", "random")
    with pytest.raises(NotADsn, match="one host"):
        canonical_dsn("dbname=d target_session_attrs=any")


def test_the_keywords_are_those_of_the_driver() -> None:
    assert {option.keyword.decode() for option in Conninfo.get_defaults()} <= KEYWORDS


def test_the_driver_shows_what_it_refuses() -> None:
    """Why this is read before it."""
    with pytest.raises(psycopg.ProgrammingError, match=MARKER):
        conninfo_to_dict(f"host=h password=p {MARKER}")
