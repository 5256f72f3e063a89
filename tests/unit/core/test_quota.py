"""What a principal may take, by a clock that a test turns."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from changefeed_gateway.core import quota as module
from changefeed_gateway.core.errors import Reason, Throttled
from changefeed_gateway.core.policy import Principal
from changefeed_gateway.core.quota import Account, Quota, Quotas

A, B = Principal(name="jwt:a"), Principal(name="jwt:b")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def quotas(clock: Clock, **limits: float) -> Quotas:
    return Quotas([Quota(principals=("*",), **limits)], now=clock)  # type: ignore[arg-type]


def reads(account: Account, most: int = 10_000) -> int:
    """How many reads there is room for now."""
    for count in range(most):
        try:
            account.begin_read()
        except Throttled:
            return count
    return most


def test_a_seconds_worth_of_reads_then_the_rate(clock: Clock) -> None:
    account = quotas(clock, reads_per_second=10).account(A)
    for _ in range(10):
        account.begin_read()
    with pytest.raises(Throttled) as caught:
        account.begin_read()
    assert caught.value.reason == Reason.QUOTA_EXCEEDED.value
    assert caught.value.metadata == {"quota": "reads_per_second"}
    assert caught.value.retry_after is not None
    clock.now += caught.value.retry_after.total_seconds() + 1e-9
    assert reads(account) == 1
    clock.now += 100
    assert reads(account) == 10, "what was not taken is not saved up"


def test_less_than_one_read_a_second(clock: Clock) -> None:
    account = quotas(clock, reads_per_second=0.5).account(A)
    assert reads(account) == 1
    clock.now += 1.9
    assert reads(account) == 0
    clock.now += 0.2
    assert reads(account) == 1


def test_bytes_that_were_sent_beyond_the_quota_are_owed(clock: Clock) -> None:
    account = quotas(clock, bytes_per_second=1_000).account(A)
    account.sent(4_000)
    with pytest.raises(Throttled) as caught:
        account.begin_read()
    assert caught.value.retry_after == timedelta(seconds=3)
    with pytest.raises(Throttled):
        account.check_bytes()
    clock.now += 3
    account.check_bytes()
    account.begin_read()


def test_streams_are_given_back(clock: Clock) -> None:
    account = quotas(clock, streams=2).account(A)
    account.open_stream()
    account.open_stream()
    with pytest.raises(Throttled) as caught:
        account.open_stream()
    assert caught.value.retry_after == timedelta(seconds=5)
    account.close_stream()
    account.open_stream()


def test_who_was_told_when_to_come_back_and_comes_before_is_known_by_it(clock: Clock) -> None:
    account = quotas(clock, reads_per_second=1, streams=0).account(A)

    def told(take: Callable[[], None]) -> bool:
        with pytest.raises(Throttled):
            take()
        return account.was_told

    account.begin_read()
    assert [told(account.begin_read) for _ in range(2)] == [False, True]
    assert [told(account.open_stream) for _ in range(2)] == [False, True], "each quota by itself"
    clock.now += 1
    account.begin_read()
    assert not told(account.begin_read), "who waited is told anew"


def test_who_is_refused_together_is_told_a_time_each(clock: Clock) -> None:
    account = quotas(clock, reads_per_second=50).account(A)
    assert reads(account) == 50, "and the one after these was told the first time"
    told = []
    for _ in range(49):
        with pytest.raises(Throttled) as caught:
            account.begin_read()
        assert not account.was_told
        assert caught.value.retry_after is not None
        told.append(caught.value.retry_after.total_seconds())
    assert told == pytest.approx([number / 50 for number in range(2, 51)])
    with pytest.raises(Throttled) as caught:
        account.begin_read()
    assert account.was_told, "there is no room for more within a second"
    assert caught.value.retry_after == timedelta(seconds=1)


def test_many_callers_that_heed_are_refused_about_as_often_as_they_are_served(clock: Clock) -> None:
    account = quotas(clock, reads_per_second=50).account(A)
    comes_at = [clock.now] * 50
    end = clock.now + 10
    served = refused = 0
    while (now := min(comes_at)) < end and refused <= 2 * 550:
        caller = comes_at.index(now)
        clock.now = now
        try:
            account.begin_read()
            served += 1
            comes_at[caller] = now + 0.001
        except Throttled as error:
            refused += 1
            comes_at[caller] = now + (error.retry_after or timedelta(0)).total_seconds()
    assert served >= 500, f"and {refused} refused"
    assert refused <= 2 * served


@pytest.mark.req("BX-8")
def test_one_principal_at_its_limit_takes_nothing_from_another(clock: Clock) -> None:
    all_ = quotas(clock, reads_per_second=100, bytes_per_second=1_000_000, streams=1)
    greedy, modest = all_.account(A), all_.account(B)
    greedy.open_stream()
    served = {"greedy": 0, "modest": 0}
    for _ in range(1_000):  # ten seconds: one asks as often as it can, the other fifty times a second
        clock.now += 0.01
        served["greedy"] += reads(greedy, 50)
        if _ % 2:
            modest.begin_read()
            modest.sent(10_000)
            served["modest"] += 1
    modest.open_stream()
    assert served["modest"] == 500
    assert 1_000 <= served["greedy"] <= 1_101


def test_who_has_no_quota_is_not_held_back(clock: Clock) -> None:
    all_ = Quotas([Quota(principals=("jwt:a",), reads_per_second=1)], now=clock)
    account = all_.account(B)
    account.sent(10**12)
    assert reads(account) == 10_000
    assert reads(all_.account(A)) == 1


def test_the_first_quota_that_names_a_principal_is_its_own(clock: Clock) -> None:
    rules = [Quota(principals=("jwt:a",), reads_per_second=5), Quota(principals=("*",), reads_per_second=1)]
    all_ = Quotas(rules, now=clock)
    assert [reads(all_.account(each)) for each in (A, B)] == [5, 1]


def test_a_quota_of_a_group_holds_from_the_token_on_that_says_so_and_what_was_taken_is_not_forgotten(
    clock: Clock,
) -> None:
    all_ = Quotas([Quota(principals=("group:g",), streams=1), Quota(principals=("*",), streams=2)], now=clock)
    member = Principal(name=A.name, groups=frozenset({"g"}))
    all_.account(A).open_stream()
    all_.account(member).open_stream()
    with pytest.raises(Throttled):
        all_.account(member).open_stream()
    all_.account(A).open_stream()
    with pytest.raises(Throttled):
        all_.account(A).open_stream()


def test_accounts_that_owe_nothing_are_forgotten(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_REMEMBERED", 100)
    all_ = quotas(clock, reads_per_second=1, streams=1)
    busy = all_.account(A)
    busy.open_stream()
    debtor = all_.account(B)
    debtor.begin_read()
    for number in range(99):
        all_.account(Principal(name=f"jwt:{number}"))
    assert len(all_._accounts) <= 100
    assert (all_.account(A), all_.account(B)) == (busy, debtor)
