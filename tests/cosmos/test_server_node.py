"""The Node SDK, unmodified, at the wire-level server: where it asks for what the server lacks, the server is wrong."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from tests.cosmos.other_sdks import OtherSdk, Refused, running_node_sdk
from tests.cosmos.sdk import AVAD, LATEST, container_client, drain, ids
from tests.cosmos.server.errors import throttled
from tests.cosmos.server.wire import WireServer


@pytest.fixture
async def node(server: WireServer) -> AsyncIterator[OtherSdk]:
    server.create_container("things", "/pk", ranges=2)
    async with running_node_sdk(server, "things") as sdk:
        yield sdk


def item(number: int) -> dict[str, Any]:
    return {"id": str(number), "pk": f"key {number}"}


async def test_it_follows_splits_in_all_versions_and_deletes(server: WireServer, node: OtherSdk) -> None:
    server.create("things", item(0))
    await node.do("open", mode=AVAD, start="now", page=3)
    assert (await node.drain()).documents == []
    for number in range(10):
        await node.do("create", item=item(number + 1))
    await node.do("replace", item={**item(3), "text": "new"}, partitionKey="key 3")
    await node.do("delete", id="4", partitionKey="key 4")
    server.expire_item("things", "5", "key 5")
    [first, *_] = server.split("things", "0")
    server.upsert("things", *map(item, range(11, 16)))
    server.split("things", first)
    server.upsert("things", *map(item, range(16, 20)))
    read = await node.drain()
    assert sorted(map(told, read.documents)) == sorted(
        [("create", str(number)) for number in range(1, 20)] + [("replace", "3"), ("delete", "4"), ("delete", "5")]
    )
    [expired] = [one for one in read.documents if one["metadata"].get("timeToLiveExpired")]
    assert expired["metadata"]["id"] == "5"
    assert server.calls.errors["ReadChangeFeed", 410, 1002] >= 1

    server.upsert("things", {**item(1), "text": "newer"})
    await node.do("open", mode=AVAD, start="continuation", continuation=read.continuation)
    assert list(map(told, (await node.drain()).documents)) == [("replace", "1")]


async def test_it_follows_splits_and_merges_in_latest_version(server: WireServer, node: OtherSdk) -> None:
    server.create("things", *map(item, range(20)))
    server.delete("things", "7", "key 7")
    await node.do("open", mode=LATEST, start="beginning", page=3)
    assert sorted(ids((await node.drain()).documents), key=int) == [str(n) for n in range(20) if n != 7]
    server.merge("things", server.ranges("things"))
    server.upsert("things", item(1), item(21))
    assert sorted(ids((await node.drain()).documents)) == ["1", "21"]
    server.split("things", server.ranges("things")[0])
    server.upsert("things", *map(item, range(30, 40)))
    read = await node.drain()
    assert sorted(ids(read.documents)) == [str(number) for number in range(30, 40)]
    server.pass_time(timedelta(hours=1))
    server.upsert("things", item(50))
    since = (server.account.clock.now() - 60) * 1000
    await node.do("open", mode=LATEST, start="time", time=since)
    assert ids((await node.drain()).documents) == ["50"]


async def test_it_reads_a_logical_partition(server: WireServer, node: OtherSdk) -> None:
    server.create("things", *({"id": str(number), "pk": f"key {number % 3}"} for number in range(12)))
    await node.do("open", mode=LATEST, start="Beginning", partitionKey="key 1", page=2)
    assert ids((await node.drain()).documents) == ["1", "4", "7", "10"]


async def test_it_is_refused_a_merged_range_and_history_that_is_gone(server: WireServer, node: OtherSdk) -> None:
    await node.do("open", mode=AVAD, start="now")
    start = (await node.drain()).continuation
    server.create("things", *map(item, range(10)))
    server.trim("things")
    await node.do("open", mode=AVAD, start="continuation", continuation=start)
    with pytest.raises(Refused) as caught:
        await node.drain()
    assert caught.value.code == 400
    await node.do("open", mode=AVAD, start="now")
    now = (await node.drain()).continuation
    server.merge("things", server.ranges("things"))
    await node.do("open", mode=AVAD, start="continuation", continuation=now)
    with pytest.raises(Refused, match="more than two children"):
        await node.drain()


async def test_it_reads_what_the_python_sdk_reads(server: WireServer, node: OtherSdk) -> None:
    await node.do("open", mode=AVAD, start="now")
    await node.drain()
    async with container_client(server, "things") as container:
        _, token = await drain(container, mode=AVAD, start_time="Now")
        for number in range(10):
            await container.upsert_item(item(number))
        created = [{"operationType": "Create", "resourceBody": {"id": f"{n} b", "pk": "key 1"}} for n in range(3)]
        assert await node.do("batch", operations=created, partitionKey="key 1") == [201] * 3
        await container.delete_item("2", "key 2")
        server.split("things", "1")
        python, _ = await drain(container, continuation=token)
        found = (await node.drain()).documents
        assert sorted(found, key=str) == sorted(python, key=str)
        assert len(found) == 14


async def test_its_point_reads_and_queries_find_what_is_there(server: WireServer, node: OtherSdk) -> None:
    server.create("things", *map(item, range(20)))
    assert (await node.do("describe"))["_rid"] == server.container("things").rid
    assert len(await node.do("ranges")) == 2
    assert (await node.do("point", id="3", partitionKey="key 3"))["pk"] == "key 3"
    assert (await node.do("upsert", item={**item(3), "text": "new"}))["text"] == "new"
    assert ids(await node.do("query", query="SELECT * FROM c WHERE c.text = 'new'")) == ["3"]
    assert ids(await node.do("query", query="SELECT * FROM c", partitionKey="key 4")) == ["4"]
    assert await node.do("query", query="SELECT VALUE COUNT(1) FROM c") == [20]


async def test_it_waits_when_it_is_throttled(server: WireServer, node: OtherSdk) -> None:
    server.create("things", *map(item, range(4)))
    await node.do("open", mode=LATEST, start="beginning")
    server.fail("ReadChangeFeed", throttled(1), times=3)
    assert len((await node.drain()).documents) == 4
    assert server.calls.errors["ReadChangeFeed", 429, 3200] == 3


def told(record: dict[str, Any]) -> tuple[str, str]:
    """What happened, and to which item."""
    [item_id] = ids([record])
    return record["metadata"]["operationType"], item_id
