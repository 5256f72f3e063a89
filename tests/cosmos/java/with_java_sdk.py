"""The Java SDK, unmodified and in gateway mode, at the wire-level server; `make test-cosmos-java` runs it.

Direct mode is left out: it speaks a binary protocol with replicas, and the service has AllVersionsAndDeletes in gateway
mode only.
"""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from tests.cosmos.other_sdks import OtherSdk, Refused, running_java_sdk
from tests.cosmos.sdk import AVAD, LATEST, ids
from tests.cosmos.server.errors import throttled
from tests.cosmos.server.wire import WireServer


@pytest.fixture
async def java(server: WireServer) -> AsyncIterator[OtherSdk]:
    server.create_container("things", "/pk", ranges=2)
    async with running_java_sdk(server, "things") as sdk:
        yield sdk


def item(number: int) -> dict[str, Any]:
    return {"id": str(number), "pk": f"key {number}"}


async def test_it_reads_both_modes_through_splits_and_merges(server: WireServer, java: OtherSdk) -> None:
    server.create("things", item(0))
    now = await java.drain(mode=AVAD, start="now")
    assert now.documents == []
    for number in range(1, 11):
        assert (await java.do("create", item=item(number)))["id"] == str(number)
    await java.do("upsert", item={**item(3), "text": "new"})
    await java.do("delete", id="4", partitionKey="key 4")
    batch = [{"id": "a", "pk": "key 1"}, {"id": "a", "pk": "key 1", "text": "again"}]
    assert await java.do("batch", items=batch, partitionKey="key 1") == 200
    server.expire_item("things", "5", "key 5")
    server.split("things", "0")
    server.upsert("things", *map(item, range(11, 16)))
    read = await java.drain(start="continuation", continuation=now.continuation, page=2)
    told = [(one["metadata"]["operationType"], *ids([one])) for one in read.documents]
    assert sorted(told) == sorted(
        [("create", str(number)) for number in range(1, 16)]
        + [("replace", "3"), ("delete", "4"), ("delete", "5"), ("create", "a"), ("replace", "a")]
    )

    server.pass_time(timedelta(hours=1))
    latest = await java.drain(mode=LATEST, start="beginning", page=3)
    assert len(latest.documents) == len(server.container("things").items())
    server.merge("things", server.ranges("things")[:2])
    server.upsert("things", item(1), item(21))
    rest = await java.drain(start="continuation", continuation=latest.continuation)
    assert sorted(ids(rest.documents)) == ["1", "21"]
    since = (server.account.clock.now() - 60) * 1000
    assert sorted(ids((await java.drain(mode=LATEST, start="time", time=int(since))).documents)) == ["1", "21"]
    alone = await java.drain(mode=LATEST, start="beginning", partitionKey="key 2")
    assert ids(alone.documents) == ["2"]
    with pytest.raises(Refused, match="more than two children") as caught:
        await java.drain(start="continuation", continuation=read.continuation)
    assert caught.value.code == 500


async def test_it_finds_items_and_waits_when_it_is_throttled(server: WireServer, java: OtherSdk) -> None:
    server.create("things", *map(item, range(20)))
    assert len(await java.do("ranges")) == 2
    assert (await java.do("point", id="3", partitionKey="key 3"))["pk"] == "key 3"
    assert ids(await java.do("query", query="SELECT * FROM c WHERE c.pk = 'key 4'")) == ["4"]
    assert await java.do("query", query="SELECT VALUE COUNT(1) FROM c") == [20]
    server.fail("ReadChangeFeed", throttled(1), times=3)
    assert len((await java.drain(mode=LATEST, start="beginning")).documents) == 20
    assert server.calls.errors["ReadChangeFeed", 429, 3200] == 3
