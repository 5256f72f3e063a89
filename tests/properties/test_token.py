"""Laws of continuation tokens: what goes in comes out, and nothing else is ever accepted."""

import base64
import random
import string
from datetime import UTC, datetime
from typing import NoReturn

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from changefeed_gateway.core.errors import InvalidRequest
from changefeed_gateway.core.model import (
    Address,
    Cursor,
    EntireCollection,
    Feed,
    ItemState,
    LogicalPartition,
    PartitionId,
    PhysicalPartition,
    Scope,
)
from changefeed_gateway.core.token import MAX_TOKEN_CHARS, TokenCodec, TokenKey
from changefeed_gateway.core.vector import Place, Vector, Waiting
from changefeed_gateway.providers.memory.cursor import encode_cursor

OLD = TokenKey(key_id="old", secret=b"0123456789abcdef")
NEW = TokenKey(key_id="new", secret=b"fedcba9876543210")
MINTED = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
CODEC = TokenCodec([NEW, OLD], now=lambda: MINTED)
ALPHABET = string.ascii_letters + string.digits + "-_="
TOKEN_REASONS = {"TOKEN_MALFORMED", "TOKEN_SIGNATURE", "TOKEN_VERSION"}

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
cursors = st.binary(max_size=400).map(Cursor)
scopes: st.SearchStrategy[Scope] = st.one_of(
    st.just(EntireCollection()),
    st.builds(PhysicalPartition, names.map(PartitionId)),
    st.builds(LogicalPartition, names),
)


def feed_of(connection: str, database: str, collection: str, provider_id: str, incarnation: str) -> Feed:
    return Feed(
        address=Address(connection=connection, database=database, collection=collection),
        provider_id=provider_id,
        incarnation=incarnation,
        capabilities=(),
        item_state=ItemState.INCLUDED,
        single_order=True,
    )


feeds = st.builds(feed_of, names, names, names, names, names)
FEED = feed_of("here", "main", "things", "memory", "1")


def reason_of(token: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        CODEC.open_for(FEED, None, token)
    return caught.value.reason


@given(feed=feeds, scope=scopes, cursor=cursors)
@pytest.mark.req("CF-06")
def test_a_token_gives_back_what_it_was_made_of(feed: Feed, scope: Scope, cursor: Cursor) -> None:
    token = CODEC.issue(feed, scope, cursor)
    envelope = CODEC.open_for(feed, scope, token)
    assert (envelope.scope, envelope.cursor, envelope.provider_id) == (scope, cursor, feed.provider_id)
    assert (envelope.issue_time, envelope.key_id) == (MINTED, "new")
    assert CODEC.open_for(feed, None, token) == envelope


@given(scope=scopes, cursor=cursors)
def test_a_token_of_the_previous_key_still_opens(scope: Scope, cursor: Cursor) -> None:
    token = TokenCodec([OLD]).issue(FEED, scope, cursor)
    assert CODEC.open_for(FEED, scope, token).cursor == cursor


def test_a_token_of_the_first_release_still_opens() -> None:
    token = (
        "eyJzY2hlbWFWZXJzaW9uIjoxLCJwcm92aWRlcklkIjoibWVtb3J5IiwicmVzb3VyY2VGaW5nZXJwcmludCI6IjhmMGE1M2Y4ZTZkNTg5M2Fm"
        "ZWM1ODE3OS42Yjg2YjI3M2ZmMzRmY2UxOWQ2YjgwNGUiLCJwcm92aWRlckN1cnNvciI6InplSnlycUJnWUFBQk1XemhCIiwic2NvcGUiOnsi"
        "bG9naWNhbCI6ImFcIlx1MDBmYyJ9LCJpc3N1ZWRBdCI6MTc5NTI2MjQwMCwia2V5SWQiOiJuZXciLCJzaWduYXR1cmUiOiI2RnZpS1lzRlpm"
        "YkhyV2xwUWFsb28zbklGbGYwdk5leV9uZ3pLLXVhQmN3In0"
    )
    assert CODEC.open_for(FEED, LogicalPartition('a"ü'), token).cursor == b"x" * 120
    assert CODEC.issue(FEED, LogicalPartition('a"ü'), Cursor(b"x" * 120)) == token


@pytest.mark.req("P6")
def test_nothing_is_parsed_before_its_signature_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*_: object) -> NoReturn:
        raise AssertionError("a stranger's bytes were parsed")

    monkeypatch.setattr("changefeed_gateway.core.token.json.loads", touched)
    monkeypatch.setattr("changefeed_gateway.core.token.zlib.decompressobj", touched)
    good = CODEC.issue(FEED, EntireCollection(), Cursor(b"x" * 400))
    raw = base64.urlsafe_b64decode(good + "=" * (-len(good) % 4))
    sealed_by_nobody = raw.replace(b'"keyId":"new"', b'"keyId":"old"')
    nested = b'{"schemaVersion":1,"a":' + b"[" * 50_000 + raw[raw.index(b',"keyId"') :]
    for forged in (raw[:-3] + b'!"}', sealed_by_nobody, nested, b'{"schemaVersion":1}'):
        assert reason_of(base64.urlsafe_b64encode(forged).decode().rstrip("=")) == "TOKEN_SIGNATURE"
    assert reason_of(base64.urlsafe_b64encode(b'{"schemaVersion":2,"new":[]}').decode().rstrip("=")) == "TOKEN_VERSION"
    assert reason_of("A" * (MAX_TOKEN_CHARS + 1)) == "TOKEN_MALFORMED"


def test_a_token_that_no_key_verifies_names_the_likely_causes() -> None:
    elsewhere = TokenCodec([TokenKey(key_id="new", secret=b"a secret of somebody else")])
    unknown = TokenCodec([TokenKey(key_id="unknown", secret=b"a secret of somebody else")])
    for codec in (elsewhere, unknown):
        token = codec.issue(FEED, EntireCollection(), Cursor(b"x"))
        with pytest.raises(InvalidRequest) as refused:
            CODEC.open(token)
        (violation,) = refused.value.fields
        for cause in ("another gateway", "altered", "tokens.keys", "state directory"):
            assert cause in violation.description


@given(cursor=cursors, position=st.integers(0, 10**6), letter=st.sampled_from(ALPHABET))
@pytest.mark.req("CF-06", "P6")
def test_a_token_with_another_letter_anywhere_is_refused(cursor: Cursor, position: int, letter: str) -> None:
    token = CODEC.issue(FEED, EntireCollection(), cursor)
    position %= len(token)
    assume(token[position] != letter)
    assert reason_of(token[:position] + letter + token[position + 1 :]) in TOKEN_REASONS


def test_one_token_with_any_letter_at_any_place_is_refused() -> None:
    token = CODEC.issue(FEED, EntireCollection(), encode_cursor(1, 2))
    for position, was in enumerate(token):
        for letter in ALPHABET:
            if letter != was:
                assert reason_of(token[:position] + letter + token[position + 1 :]) in TOKEN_REASONS


@given(cursor=cursors, low=st.integers(0, 300), high=st.integers(0, 300))
def test_a_part_of_a_token_is_refused(cursor: Cursor, low: int, high: int) -> None:
    token = CODEC.issue(FEED, EntireCollection(), cursor)
    part = token[low : len(token) - high]
    assume(part != token)
    assert reason_of(part) in TOKEN_REASONS


@given(noise=st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_noise_is_refused(noise: str) -> None:
    assert reason_of(noise) in TOKEN_REASONS


def test_ten_thousand_random_tokens_are_refused() -> None:
    dice = random.Random(10_000)
    for _ in range(10_000):
        token = base64.urlsafe_b64encode(dice.randbytes(dice.randint(0, 300))).decode().rstrip("=")
        assert reason_of(token) in TOKEN_REASONS


@given(one=feeds, other=feeds, scope=scopes)
@pytest.mark.req("E5")
def test_a_token_opens_for_its_own_feed_only(one: Feed, other: Feed, scope: Scope) -> None:
    assume(one != other)
    with pytest.raises(InvalidRequest):
        CODEC.open_for(other, None, CODEC.issue(one, scope, Cursor(b"")))


@given(one=scopes, other=scopes)
def test_a_token_opens_for_its_own_scope_only(one: Scope, other: Scope) -> None:
    assume(one != other)
    with pytest.raises(InvalidRequest) as caught:
        CODEC.open_for(FEED, other, CODEC.issue(FEED, one, Cursor(b"")))
    assert caught.value.reason == "TOKEN_WRONG_SCOPE"


partition_ids = names.map(PartitionId)
seconds = st.datetimes(min_value=datetime(2000, 1, 1), timezones=st.just(UTC)).map(
    lambda time: time.replace(microsecond=0)
)
places = st.builds(Place, cursors, st.none() | seconds)
vectors = st.builds(
    Vector,
    st.dictionaries(partition_ids, places, max_size=5),
    st.dictionaries(
        partition_ids, st.builds(Waiting, st.frozensets(partition_ids, min_size=1, max_size=3), places), max_size=3
    ),
)


@given(vector=vectors)
def test_a_vector_survives_its_cursor_with_the_order_of_its_partitions(vector: Vector) -> None:
    again = Vector.decode(vector.encode())
    assert again == vector
    assert list(again.open) == list(vector.open)


@pytest.mark.parametrize(
    "noise",
    [
        *(b"", b"{}", b"[]", b"[[],[],[]]", b"[1,2]", b"\xff"),
        *(b'[[["p"]],[]]', b'[[["p",1]],[]]', b'[[["p",1,null]],[]]', b'[[["p","",1e300]],[]]', b'[[["p","",[]]],[]]'),
    ],
)
def test_a_cursor_that_is_no_vector_is_refused(noise: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Vector.decode(Cursor(noise))
    assert caught.value.reason == "TOKEN_MALFORMED"


@settings(max_examples=5)
@given(seed=st.integers(0, 2**32))
def test_the_token_of_a_thousand_partitions_fits_into_a_request(seed: int) -> None:
    dice = random.Random(seed)
    open_ = {
        PartitionId(f"shardId-{n:020}-{dice.getrandbits(32):08x}"): Place(Cursor(dice.randbytes(40)), MINTED)
        for n in range(1000)
    }
    token = CODEC.issue(FEED, EntireCollection(), Vector(open_, {}).encode())
    assert len(token) < MAX_TOKEN_CHARS / 3
    assert Vector.decode(CODEC.open(token).cursor).open == open_
