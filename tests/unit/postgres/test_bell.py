"""What a gateway knows of the bell, when questions to the database fail or rings overlap them."""

from changefeed_gateway.providers.postgres.ticks.bell import Bell


def test_a_ring_is_answered_by_the_next_question_that_is_answered() -> None:
    bell = Bell(lambda: True)
    bell.hear(2_000)
    lost = bell.orders()
    assert lost.answered == 2_000
    again = bell.orders()
    assert again.answered == 2_000, "the database did not answer the first"
    bell.obeyed(again, armed=False)
    assert bell.orders().answered is None


def test_a_ring_during_a_question_is_left_for_the_next_one() -> None:
    bell = Bell(lambda: True)
    bell.hear(1_000)
    orders = bell.orders()
    bell.hear(3_000)
    bell.obeyed(orders, armed=False)
    assert bell.orders().answered == 3_000


def test_a_bell_that_rang_while_it_was_armed_has_to_be_armed_again() -> None:
    bell = Bell(lambda: True)
    bell.want(True)
    orders = bell.orders()
    assert orders.arm
    bell.hear(1_000)
    bell.obeyed(orders, armed=True)
    assert bell.orders().arm
    bell.obeyed(bell.orders(), armed=True)
    assert not bell.orders().arm


def test_a_question_that_found_news_has_armed_nothing() -> None:
    bell = Bell(lambda: True)
    bell.want(True)
    bell.obeyed(bell.orders(), armed=False)
    assert bell.orders().arm


def test_nobody_arms_a_bell_to_which_nobody_would_sleep() -> None:
    assert not Bell(lambda: True).orders().arm
