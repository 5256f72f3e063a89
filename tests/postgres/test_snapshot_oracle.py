"""Snapshots under fire: writers at full speed, consumers that are killed and resumed anywhere, two gateways in turn.

Some consumers read a provider's pages, which they leave in the middle; others are clients of gateways, by pages and by
streams.
"""

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg
import pytest

from changefeed.v1.subscribe_pb2 import SUBSCRIPTION_STATE_LIVE
from changefeed_gateway.api.wire.cases import CHANGE_TYPES, ITEM_STATES
from changefeed_gateway.core.model import (
    After,
    Beginning,
    Change,
    ChangeType,
    Cursor,
    Feed,
    ItemState,
    Key,
    KeyComponent,
    KeyType,
    LogicalPartition,
    Page,
    PageRead,
    PartitionId,
    Scope,
    Snapshot,
    Start,
)
from changefeed_gateway.providers.postgres.provider import PostgresProvider
from tests.conformance.client import SNAPSHOT, Client, Event, after, logical, wire_address
from tests.conftest import StartGateway
from tests.postgres.reading import WHOLE, address, open_provider, page_read, read_all
from tests.soak import soak_dice, soak_seconds

Connection = psycopg.AsyncConnection[psycopg.rows.TupleRow]

SECONDS = soak_seconds(4)
COLLECTION = "public.things"
SPACES = ("a", "B", "c", "[d")
NAMES = ("ä", "Z", "b", "[x", "", "a-b", "a b", "A")

_SCHEMA = """
CREATE TABLE things (space text COLLATE "C", name text, number int, version serial, filling text,
                     PRIMARY KEY (name, number, space));
SELECT changefeed.watch('things', partition_key => '{space}');
INSERT INTO things SELECT s, n, i
FROM unnest(%(spaces)s::text[]) s, unnest(%(names)s::text[]) n, generate_series(1, 25) i;
"""


class Writer:
    """Inserts, updates, deletes, new keys for old rows, truncations; in transactions short and long, some aborted."""

    def __init__(self, connection: Connection, seed: int, *, truncates: bool) -> None:
        self._connection, self._dice, self._truncates = connection, random.Random(seed), truncates

    async def run(self, stop: asyncio.Event) -> None:
        dice = self._dice
        while not stop.is_set():
            try:
                async with self._connection.transaction(force_rollback=dice.random() < 0.1):
                    for _ in range(dice.choice((1, 1, 2, 30))):
                        await self._change()
                    await asyncio.sleep(dice.choice((0, 0, 0, 0.002, 0.05)))
            except (psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected):
                pass
            await asyncio.sleep(0)

    def _key(self) -> dict[str, object]:
        dice = self._dice
        return {
            "space": dice.choice(SPACES),
            "name": dice.choice(NAMES),
            "number": dice.randrange(30),
            "to": dice.randrange(30),
            "note": dice.randbytes(dice.choice((1, 40))).hex(),
        }

    async def _change(self) -> None:
        if self._truncates and self._dice.random() < 0.002:
            await self._connection.execute("TRUNCATE things")
            return
        where = "WHERE (space, name, number) = (%(space)s, %(name)s, %(number)s)"
        statement = self._dice.choice(
            (
                "INSERT INTO things (space, name, number, filling) VALUES (%(space)s, %(name)s, %(number)s, %(note)s)"
                " ON CONFLICT (space, name, number) DO UPDATE SET version = default, filling = excluded.filling",
                "INSERT INTO things (space, name, number) SELECT %(space)s, %(name)s, i FROM generate_series(1, 5) i"
                " ON CONFLICT DO NOTHING",
                f"UPDATE things SET version = default, filling = %(note)s {where}",
                "UPDATE things SET version = default WHERE name = %(name)s AND number = %(number)s",
                f"UPDATE things SET number = %(to)s, version = default {where}",
                f"DELETE FROM things {where}",
            )
        )
        await self._connection.execute(statement, self._key())


@asynccontextmanager
async def writing(dsn: str, count: int) -> AsyncIterator[None]:
    """Writers at work."""
    connections = [await psycopg.AsyncConnection.connect(dsn, autocommit=True) for _ in range(count)]
    stop = asyncio.Event()
    tasks = [
        asyncio.create_task(Writer(connection, seed, truncates=seed == 0).run(stop))
        for seed, connection in enumerate(connections)
    ]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)
        for connection in connections:
            await connection.close()


class Consumer:
    """Reads from a snapshot, each page from one of two gateways; stops within pages, and goes on there."""

    def __init__(self, providers: Sequence[PostgresProvider], dice: random.Random, scope: Scope = WHOLE) -> None:
        self._providers, self._dice, self._scope = providers, dice, scope
        self.start: Start = Snapshot()
        self.seen: list[Change] = []
        self.finished = False
        self.done = False
        self.items: dict[str, str] = {}

    async def page(self) -> Page:
        provider = self._dice.choice(self._providers)
        feed = await provider.open_feed(address(COLLECTION))
        read = page_read(
            self.start,
            scope=self._scope,
            size=self._dice.choice((1, 7, 50, 400, 400)),
            max_bytes=self._dice.choice((300, 5_000, 3_500_000, 3_500_000)),
        )
        return await provider.read_page(feed, read)

    async def step(self) -> None:
        """Take a page, or part of one, with the place behind it, as one transaction would."""
        page = await self.page()
        whole = not page.changes or self._dice.random() < 0.5
        count = len(page.changes) if whole else self._dice.randrange(1, len(page.changes) + 1)
        if count == len(page.changes):
            cursor: Cursor = page.cursor
            self.finished = self.finished or (page.snapshot is not None and page.snapshot.finished)
            self.done = not page.more_available
        else:
            cursor = page.cursors[count - 1]
        self.start = After(cursor)
        self.take(page.changes[:count])

    def take(self, changes: Sequence[Change]) -> None:
        self.seen += changes
        for change in changes:
            apply(self.items, change)


class ForgetfulConsumer(Consumer):
    """Applies what comes at once, drops event ids that it knows, and saves its place only now and then."""

    def __init__(self, providers: Sequence[PostgresProvider], dice: random.Random, scope: Scope = WHOLE) -> None:
        super().__init__(providers, dice, scope)
        self._saved: Start | None = None
        self._ids: set[str] = set()

    async def step(self) -> None:
        if self._saved is None:
            # What it is told first it keeps: a snapshot that begins anew with every crash would bring it nowhere.
            await super().step()
            self._saved = self.start
            return
        await super().step()
        if self._dice.random() < 0.3 and not self.done:
            self.start = self._saved
        elif self._dice.random() < 0.5:
            self._saved = self.start

    def take(self, changes: Sequence[Change]) -> None:
        new = [change for change in changes if change.event_id not in self._ids]
        self._ids.update(change.event_id for change in new)
        super().take(new)


class GatewayConsumer:
    """A client of gateways: by a page or by a stream that it leaves after some messages, at each in turn."""

    def __init__(self, clients: Sequence[Client], dice: random.Random, scope: Scope = WHOLE) -> None:
        self._clients, self._dice = clients, dice
        self._scope = logical(scope.partition_key) if isinstance(scope, LogicalPartition) else None
        self._turns = 0
        self._token = ""
        self.seen: list[Change] = []
        self.finished = False
        self.done = False
        self.items: dict[str, str] = {}

    async def step(self) -> None:
        """Take what comes with its token, as one transaction would."""
        self._turns += 1
        client = self._clients[self._turns % len(self._clients)]
        start, size = after(self._token) if self._token else SNAPSHOT, self._dice.choice((1, 7, 50, 400, 400))
        if self._dice.random() < 0.5:
            page = await client.read(start, scope=self._scope, size=size)
            self._take(page.events, page.continuation_token)
            self.finished = self.finished or page.snapshot.finished
            self.done = not page.more_available
            return
        async with client.subscribe(start, scope=self._scope, size=size) as stream:
            for _ in range(self._dice.randrange(1, 8)):
                message = await stream.next()
                assert message is not None, "nothing ends a stream of an entire collection"
                self._take(message.batch.events, stream.token)
                self.finished = self.finished or message.HasField("snapshot_finished")
                self.done = message.state_changed.state == SUBSCRIPTION_STATE_LIVE
                if self.done:
                    return

    def _take(self, events: Sequence[Event], token: str) -> None:
        self._token = token
        changes = [change_of(event) for event in events]
        self.seen += changes
        for change in changes:
            apply(self.items, change)


def change_of(event: Event) -> Change:
    """What a client was told, in our own words; without the fields that are not compared."""
    components = [KeyComponent(part.name, part.value, KeyType.STRING) for part in event.key.components]
    return Change(
        event_id=event.event_id,
        change_type=next(case for case, wire in CHANGE_TYPES.items() if wire == event.change_type),
        key=Key(event.key.partition_key, tuple(components), ""),
        item_state=next(case for case, wire in ITEM_STATES.items() if wire == event.item_state),
        item=event.new_item_json or None,
        commit_time=None,
        partition_id=PartitionId(event.partition_id),
        sequence=event.sequence,
    )


def key_of(change: Change) -> str:
    return json.dumps([component.value for component in change.key.components])


def apply(items: dict[str, str], change: Change) -> None:
    if change.change_type is ChangeType.TRUNCATE:
        items.clear()
    elif change.change_type is ChangeType.DELETE:
        items.pop(key_of(change), None)
    else:
        assert change.item_state is ItemState.INCLUDED
        items[key_of(change)] = change.item or ""


async def table(dsn: str, space: str | None = None) -> dict[str, str]:
    """What the source holds, as images."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        rows = await connection.execute(
            "SELECT json_build_array(name, number::text, space)::text, row_to_json(t.*)::text FROM things t"
            " WHERE %(space)s::text IS NULL OR space = %(space)s",
            {"space": space},
        )
        return {json.dumps(json.loads(key)): image for key, image in await rows.fetchall()}


def check_exact(seen: Sequence[Change], log: Sequence[Change]) -> int:
    """Hold what a consumer saw against the log, key by key; answers how many keys came as an item.

    An item is what the log left behind at some moment, and after it come exactly the changes after that moment, in
    order. Without one there was no item at that moment. Before it nothing comes but deletes.
    """
    told, logged = by_key(seen), by_key(log)
    items = 0
    for key, history in logged.items():
        got = told.get(key, [])
        read = [index for index, change in enumerate(got) if change.change_type is ChangeType.SNAPSHOT]
        assert len(read) <= 1, f"{key} came twice as an item"
        items += len(read)
        if read:
            before, rest, image = got[: read[0]], got[read[0] + 1 :], got[read[0]].item
            assert ids(rest) == ids(history[len(history) - len(rest) :]), key
            assert state_after(history[: len(history) - len(rest)]) == image, f"{key} was taken back, or on"
        else:
            fits = [
                count
                for count in range(len(got) + 1)
                if ids(got[len(got) - count :]) == ids(history[len(history) - count :])
                and state_after(history[: len(history) - count]) is None
                and all(change.change_type in GONE for change in got[: len(got) - count])
            ]
            assert fits, key
            before = got[: len(got) - fits[-1]]
        assert all(change.change_type in GONE for change in before)
        places = [ids(history).index(change.event_id) for change in before]
        assert places == sorted(places), "deletes in order"
    assert told.keys() <= logged.keys()
    return items


GONE = (ChangeType.DELETE, ChangeType.TRUNCATE)


def by_key(changes: Sequence[Change]) -> dict[str, list[Change]]:
    """The changes of each key; truncations are changes of all."""
    keys = {key_of(change) for change in changes if change.change_type is not ChangeType.TRUNCATE}
    found: dict[str, list[Change]] = defaultdict(list)
    for change in changes:
        for key in keys if change.change_type is ChangeType.TRUNCATE else (key_of(change),):
            found[key].append(change)
    return found


def state_after(history: Sequence[Change]) -> str | None:
    return history[-1].item if history and history[-1].change_type not in GONE else None


def ids(changes: Sequence[Change]) -> list[str]:
    return [change.event_id for change in changes]


async def log_since(provider: PostgresProvider, feed: Feed, read: PageRead) -> list[Change]:
    return (await read_all(provider, feed, read))[0]


@pytest.mark.soak
@pytest.mark.req("CF-12", "P1", "P2", "P3", "P4")
async def test_each_key_has_its_item_and_then_exactly_its_later_changes(
    log_database: str, start_gateway: StartGateway
) -> None:
    dice = soak_dice()
    async with await psycopg.AsyncConnection.connect(log_database, autocommit=True) as connection:
        for statement in _SCHEMA.split(";\n"):
            if statement.strip():
                named = {"spaces": list(SPACES), "names": list(NAMES)}
                await connection.execute(statement, named if "%(" in statement else None)
    gateways = [await start_gateway({"test": PostgresProvider(log_database)}) for _ in range(2)]
    clients = [Client(gateway.stub, wire_address(address(COLLECTION))) for gateway in gateways]
    async with open_provider(log_database) as one, open_provider(log_database) as two:
        feed = await one.open_feed(address(COLLECTION))
        providers = (one, two)
        exact: list[tuple[Consumer | GatewayConsumer, Scope]] = []
        forgetful: list[ForgetfulConsumer] = []
        ends = asyncio.get_running_loop().time() + SECONDS
        async with writing(log_database, 4):
            # One snapshot at least ends beside its writers, however slow the machine is.
            while asyncio.get_running_loop().time() < ends or not any(consumer.finished for consumer, _ in exact):
                scope: Scope = dice.choice((WHOLE, WHOLE, LogicalPartition("B")))
                consumer, other = Consumer(providers, dice, scope), ForgetfulConsumer(providers, dice)
                client = GatewayConsumer(clients, dice, scope)
                exact += [(consumer, scope), (client, scope)]
                forgetful.append(other)
                while not consumer.finished and (len(exact) == 2 or asyncio.get_running_loop().time() < ends):
                    await consumer.step()
                    await other.step()
                    await client.step()
        items = 0
        for each, scope in exact:
            each.done = False
            while not each.done:
                await each.step()
            log = await log_since(one, feed, page_read(Beginning(), scope=scope))
            items += check_exact(each.seen, log)
            assert each.items == await table(log_database, "B" if scope is not WHOLE else None)
        # Not of each: one may have begun right behind a truncation.
        assert items
        for other in forgetful:
            other.done = False  # it may have come to an end that was none, while others wrote
            while not other.done:
                await other.step()
            assert other.items == await table(log_database)
