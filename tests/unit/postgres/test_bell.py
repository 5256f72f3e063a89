"""What a gateway knows of the bell, when questions to the database fail or rings overlap them."""

from changefeed_gateway.providers.postgres.ticks.bell import Bell


def test_a_ring_is_answered_by_the_next_question_that_is_answered() -> None:
    bell = Bell(lambda: True)
    bell.hear(2_000)
    lost = bell.orders()
    assert lost.answered == 2_000
    again = bell.orders()
    assert again.answered == 2_000, "the database did not answer the first"
    bell.obeyed(again)
    assert bell.orders().answered is None


def test_a_ring_during_a_question_is_left_for_the_next_one() -> None:
    bell = Bell(lambda: True)
    bell.hear(1_000)
    orders = bell.orders()
    bell.hear(3_000)
    bell.obeyed(orders)
    assert bell.orders().answered == 3_000


def test_a_bell_that_rang_while_it_was_armed_has_to_be_armed_again() -> None:
    bell = Bell(lambda: True)
    bell.arm()
    orders = bell.orders()
    assert orders.arm
    bell.hear(1_000)
    bell.obeyed(orders)
    assert bell.silent
    bell.arm()
    bell.obeyed(bell.orders())
    assert not bell.silent
