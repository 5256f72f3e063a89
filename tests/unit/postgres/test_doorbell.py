"""What the doorbell makes of notifications: every login of the database may send some."""

import json
from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from changefeed_gateway.providers.postgres.connections import Connections
from changefeed_gateway.providers.postgres.ticks.doorbell import Doorbell

_DSN = "host=/nowhere"


class Rung:
    """A doorbell without a connection, and whom it rang for."""

    def __init__(self) -> None:
        self.feeds: list[set[int]] = []
        self.doorbell = Doorbell(_DSN, Connections(_DSN), self.ring)

    def ring(self, bells: Mapping[int, int] | None) -> None:
        assert bells is not None
        self.feeds.append(set(bells))

    def hear(self, *payloads: str) -> None:
        self.doorbell._ring_for(payloads)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["feed", "seq", "probe", "partition_key"]), inner),
)


@given(st.text() | JSON.map(json.dumps))
@example('{"feed": 1e400}')
@example('{"feed": ' + "[" * 7000 + "]" * 900 + "}")
@example("[" * 8000)
@example('{"feed": ' + "9" * 7000 + "}")
@example('{"feed": -1}')
@example('{"feed": true}')
@example('{"feed": "1"}')
@example('{"feed": 1.0}')
@example('{"feed": NaN}')
@example('{"feed": ٣}')
@example('{"feed": 1, "seq": 1, "partition_key": "' + "\\" * 7900)
@example("\x00\ud800")
async def test_no_payload_ends_the_doorbell_or_rings_for_what_is_no_feed(payload: str) -> None:
    rung = Rung()
    rung.hear(payload)
    if rung.feeds:
        [[feed_id]] = rung.feeds
        assert json.loads(payload)["feed"] == feed_id
        assert rung.doorbell.passed_over == 0


@given(st.integers(1, 2**31 - 1), st.none() | st.text(max_size=1000), st.integers(1, 2**63 - 1))
async def test_what_the_change_log_sends_rings(feed_id: int, partition_key: str | None, seq: int) -> None:
    rung = Rung()
    payload = {"feed": feed_id, "seq": seq, "partition_key": partition_key}
    for ascii_only in (True, False):
        rung.hear(json.dumps(payload, separators=(", ", " : "), ensure_ascii=ascii_only))
    rung.hear(json.dumps({"feed": feed_id}, separators=(", ", " : ")))
    assert rung.feeds == [{feed_id}] * 3
    assert rung.doorbell.passed_over == 0


async def test_a_feed_is_rung_once_for_all_that_came_together() -> None:
    rung = Rung()
    rung.hear(*(f'{{"feed" : {number % 3}, "seq" : {number}, "partition_key" : null}}' for number in range(10_000)))
    assert rung.feeds == [{0, 1, 2}]


async def test_what_strangers_send_is_counted_and_told_once_without_its_text() -> None:
    rung = Rung()
    with capture_logs() as logs:
        rung.hear("a secret", '{"feed": 1}', "another secret")
        rung.hear("a secret", '{"probe": "0123456789abcdef"}')
    assert rung.doorbell.passed_over == 3
    assert rung.feeds == [{1}]
    [entry] = logs
    assert "secret" not in str(entry)


@pytest.mark.parametrize("length", [8_001, 1_000_000])
async def test_a_payload_that_postgresql_would_not_send_is_passed_over(length: int) -> None:
    rung = Rung()
    text = '{"feed" : 1, "seq" : 1, "partition_key" : ""}'
    rung.hear(text.replace('""', '"' + "x" * (length - len(text)) + '"'))
    assert not rung.feeds
