"""Who goes on in which turn of the loop."""

import asyncio

from changefeed_gateway.core.turns import Turns


class Watch:
    """Which turn of the loop it is."""

    def __init__(self) -> None:
        self.turn = 0
        self.came: list[int] = []

    async def count(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)

    async def come(self, turns: Turns) -> None:
        await turns.come()
        self.came.append(self.turn)


async def test_no_more_go_on_in_a_turn_than_it_has_room_for_and_in_the_order_in_which_they_came() -> None:
    turns, watch = Turns(3), Watch()
    counting = asyncio.create_task(watch.count())
    tasks = [asyncio.create_task(watch.come(turns), name=str(number)) for number in range(20)]
    done: list[str] = []
    for task in tasks:
        task.add_done_callback(lambda task: done.append(task.get_name()))
    await asyncio.gather(*tasks)
    counting.cancel()
    assert max(watch.came.count(turn) for turn in watch.came) == 3
    await asyncio.sleep(0)
    assert done == [str(number) for number in range(20)]


async def test_who_comes_alone_does_not_wait() -> None:
    turns = Turns(2)
    for _ in range(5):
        coming = turns.come()
        try:
            coming.send(None)
        except StopIteration:
            pass
        else:
            raise AssertionError("it waited")
        for _ in range(2):
            await asyncio.sleep(0)


async def test_who_gives_up_takes_nobodys_place() -> None:
    turns, watch = Turns(2), Watch()
    tasks = [asyncio.create_task(watch.come(turns)) for _ in range(12)]
    await asyncio.sleep(0)
    for task in tasks[2:10]:
        task.cancel()
    for _ in range(4):
        await asyncio.sleep(0)
    assert [task.cancelled() for task in tasks] == [False] * 2 + [True] * 8 + [False] * 2
    assert tasks[10].done()
    assert tasks[11].done()


async def test_an_answer_is_given_as_it_was_when_it_was_said() -> None:
    turns = Turns(1)
    futures = [asyncio.get_running_loop().create_future() for _ in range(5)]
    for number, future in enumerate(futures):
        turns.resolve(future, number)
    assert [future.done() for future in futures] == [True] + [False] * 4, "one goes on in the next turn, as it has room"
    assert await asyncio.gather(*futures) == list(range(5))
