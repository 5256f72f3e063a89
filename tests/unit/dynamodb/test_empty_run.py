"""An account of empty pages: ten prove something, and what they prove is as old as the first of them."""

from datetime import timedelta
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changefeed_gateway.core.pace import Pace
from changefeed_gateway.providers.dynamodb.empty_run import EmptyRun

STEPS = st.lists(st.integers(0, 30), max_size=60)


def runs(steps: list[int]) -> list[tuple[int, EmptyRun]]:
    """When each of some empty pages came, and the account then."""
    found, run = [], EmptyRun()
    for at in accumulate(steps, initial=1_000):
        run = run.another(at)
        found.append((at, run))
    return found


@given(STEPS)
def test_ten_pages_prove_what_was_true_when_the_first_of_them_came(steps: list[int]) -> None:
    pages = runs(steps)
    times = [at for at, _ in pages]
    for index, (_, run) in enumerate(pages):
        proofs = (index + 1) // 10
        # The last page of one proof is the first of the next.
        assert run.as_of == (times[max(0, (proofs - 1) * 10 - 1)] if proofs else 0)


@given(STEPS)
def test_a_proof_is_never_younger_than_the_page_and_never_goes_back(steps: list[int]) -> None:
    proven = 0
    for at, run in runs(steps):
        assert proven <= run.as_of <= at
        proven = run.as_of


@pytest.mark.parametrize(("behind", "pages"), [(0, 3), (60, 3), (61, 20), (80_000, 20)])
def test_who_is_far_behind_takes_more_empty_pages_for_the_end(behind: int, pages: int) -> None:
    assert [run.at_tip(behind=behind) for _, run in runs([1] * 30)].index(True) == pages - 1


@given(st.integers(1, 10**6))
def test_pauses_double_up_to_the_longest(pages: int) -> None:
    pace = Pace(shortest_pause=timedelta(milliseconds=250), longest_pause=timedelta(seconds=2))
    assert pace.pause(1) == 0.25
    assert pace.pause(pages) <= pace.pause(pages + 1) <= min(2.0, 2 * pace.pause(pages))
