"""Who counts as one peer, and how many places one has."""

import pytest

from changefeed_gateway.api import admission
from changefeed_gateway.api.admission import Admission, BadTokens, Connections, host_of
from changefeed_gateway.core.errors import Reason, Throttled


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:127.0.0.1:50051", "127.0.0.1"),
        ("ipv4:10.0.0.7:1", "10.0.0.7"),
        ("ipv6:%5B::1%5D:50051", "::/64"),
        ("ipv6:[2001:db8:1:2::5]:50051", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2:ffff::9%5D:7", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:7", "fe80::/64"),
        ("ipv6:%5B::ffff:10.0.0.7%5D:7", "10.0.0.7"),
        ("unix:/run/changefeed.sock", "unix:/run/changefeed.sock"),
        ("unix:", "unix:"),
        ("ipv4:", "ipv4:"),
        ("", ""),
    ],
)
def test_a_peer_is_its_host_whatever_the_port(peer: str, host: str) -> None:
    assert host_of(peer) == host


def test_a_host_holds_its_share_and_the_others_the_rest() -> None:
    places = Admission(4, Reason.TOO_MANY_STREAMS, "peer_stream_share", 0.5)
    places.enter("a")
    places.enter("a")
    with pytest.raises(Throttled, match="peer_stream_share"):
        places.enter("a")
    places.enter("b")
    places.enter("b")
    with pytest.raises(Throttled, match="serves 4 already"):
        places.enter("c")
    places.leave("a")
    places.enter("c")
    assert not places.idle.is_set()
    for host in "abbc":
        places.leave(host)
    assert places.idle.is_set()


def test_the_smallest_share_is_one_place() -> None:
    places = Admission(2, Reason.TOO_MANY_CALLS, "peer_call_share", 0.001)
    places.enter("a")
    with pytest.raises(Throttled, match="peer_call_share"):
        places.enter("a")


def test_a_host_calls_on_so_many_connections_and_no_more() -> None:
    connections = Connections(2)
    for peer in ("a:1", "a:1", "a:2"):
        connections.enter("a", peer)
    with pytest.raises(Throttled, match="peer_connections") as caught:
        connections.enter("a", "a:3")
    assert caught.value.reason == Reason.TOO_MANY_CONNECTIONS.value
    connections.enter("a", "a:2")
    connections.enter("b", "b:1")
    connections.leave("a", "a:1")
    with pytest.raises(Throttled):
        connections.enter("a", "a:3")
    connections.leave("a", "a:1")
    connections.enter("a", "a:3")


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def turned_away(tokens: BadTokens, host: str, peer: str) -> bool:
    try:
        await tokens.check(host, peer)
    except Throttled as error:
        return error.reason == Reason.TOO_MANY_BAD_TOKENS.value
    return False


@pytest.fixture
def bad_tokens(monkeypatch: pytest.MonkeyPatch) -> tuple[BadTokens, Clock]:
    monkeypatch.setattr(admission, "_LATE_SECONDS", 0.0)
    clock = Clock()
    return BadTokens(10, now=clock), clock


async def test_a_connection_that_brings_bad_tokens_is_turned_away_until_a_second_has_passed(
    bad_tokens: tuple[BadTokens, Clock],
) -> None:
    tokens, clock = bad_tokens
    for _ in range(10):
        assert not await turned_away(tokens, "a", "a:1")
        tokens.count("a", "a:1")
    assert await turned_away(tokens, "a", "a:1")
    assert not await turned_away(tokens, "a", "a:2"), "a neighbour"
    assert not await turned_away(tokens, "b", "b:1"), "another host"
    for _ in range(1_000):
        tokens.count("a", "a:1")
    clock.seconds = 0.2
    assert not await turned_away(tokens, "a", "a:1"), "what came meanwhile is not owed"
    clock.seconds = 1.2
    assert not await turned_away(tokens, "a", "a:1")
    assert not tokens._hosts, "it is forgotten"


async def test_a_host_that_brings_them_on_ever_new_connections_is_turned_away_whole(
    bad_tokens: tuple[BadTokens, Clock],
) -> None:
    tokens, _ = bad_tokens
    for peer in range(16):
        assert not await turned_away(tokens, "a", f"a:{peer + 100}")
        tokens.count("a", f"a:{peer}")
    assert await turned_away(tokens, "a", "a:99")
    assert not await turned_away(tokens, "b", "b:1")


def test_hosts_are_forgotten_beyond_those_that_are_remembered(
    monkeypatch: pytest.MonkeyPatch, bad_tokens: tuple[BadTokens, Clock]
) -> None:
    tokens, clock = bad_tokens
    for host in range(admission._MOST_REMEMBERED):
        tokens.count(str(host), "1")
    clock.seconds = 1.0
    tokens.count("new", "1")
    assert list(tokens._hosts) == ["new"]
