"""Writes and reads of items at the wire-level server, as the unmodified SDK makes them."""

from collections.abc import Awaitable
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.cosmos import CosmosClient, PartitionKey
from azure.cosmos.aio import CosmosClient as AsyncCosmosClient
from azure.cosmos.exceptions import CosmosBatchOperationError, CosmosHttpResponseError
from hypothesis import example, given
from hypothesis import strategies as st

from tests.cosmos.sdk import AVAD, LATEST, container_client, drain, feed_ranges, ids
from tests.cosmos.server.partition_key import Definition
from tests.cosmos.server.wire import DATABASE, WireServer


async def refused(call: Awaitable[object]) -> tuple[int, int]:
    """Status and sub-status that a call is refused with."""
    with pytest.raises(CosmosHttpResponseError) as caught:
        await call
    return int(caught.value.status_code or 0), int(caught.value.sub_status or 0)


# --- Writes


async def test_point_writes_are_what_they_are_called(server: WireServer) -> None:
    server.create_container("things", "/pk", ranges=3)
    async with container_client(server, "things") as container:
        created = await container.create_item({"id": "1", "pk": "a", "text": "old"})
        assert await refused(container.create_item({"id": "1", "pk": "a"})) == (409, 0)
        await container.create_item({"id": "1", "pk": "b"})
        replaced = await container.replace_item("1", {"id": "1", "pk": "a", "text": "new"})
        assert (replaced["_rid"], replaced["text"]) == (created["_rid"], "new")
        assert await container.read_item("1", "a") == replaced
        await container.upsert_item({"id": "1", "pk": "a"})
        await container.upsert_item({"id": "2", "pk": "a"})
        await container.delete_item("1", "a")
        assert await refused(container.read_item("1", "a")) == (404, 0)
        assert await refused(container.delete_item("1", "a")) == (404, 0)
        assert await refused(container.replace_item("1", {"id": "1", "pk": "a"})) == (404, 0)
    operations = [(one.operation, one.item_id, one.key["pk"]) for one in server.container("things").history]
    assert operations == [
        ("create", "1", "a"),
        ("create", "1", "b"),
        ("replace", "1", "a"),
        ("replace", "1", "a"),
        ("create", "2", "a"),
        ("delete", "1", "a"),
    ]


async def test_a_write_with_the_wrong_version_does_nothing(server: WireServer) -> None:
    server.create_container("things", "/pk")
    async with container_client(server, "things") as container:
        first = await container.create_item({"id": "1", "pk": "a"})
        condition = {"etag": first["_etag"], "match_condition": MatchConditions.IfNotModified}
        second = await container.replace_item("1", {"id": "1", "pk": "a", "text": "new"}, **condition)
        assert await refused(container.replace_item("1", {"id": "1", "pk": "a"}, **condition)) == (412, 0)
        assert await refused(container.upsert_item({"id": "1", "pk": "a"}, **condition)) == (412, 0)
        assert await refused(container.delete_item("1", "a", **condition)) == (412, 0)
        assert await container.read_item("1", "a") == second


async def test_a_batch_is_one_transaction_or_nothing(server: WireServer) -> None:
    server.create_container("things", "/pk")
    async with container_client(server, "things") as container:
        steps = [
            ("create", ({"id": "1", "pk": "a"},)),
            ("upsert", ({"id": "1", "pk": "a", "text": "new"},)),
            ("replace", ("1", {"id": "1", "pk": "a", "text": "newer"})),
            ("create", ({"id": "2", "pk": "a"},)),
            ("delete", ("2",)),
            ("read", ("1",)),
        ]
        results = await container.execute_item_batch(steps, partition_key="a")
        assert [one["statusCode"] for one in results] == [201, 200, 200, 201, 204, 200]
        assert results[-1]["resourceBody"]["text"] == "newer"
        assert [one.lsn for one in server.container("things").history] == [1] * 5
        with pytest.raises(CosmosBatchOperationError) as caught:
            await container.execute_item_batch([("delete", ("1",)), ("create", ({"id": "1", "pk": "b"},))], "a")
        assert caught.value.error_index == 1
        with pytest.raises(CosmosBatchOperationError):
            await container.execute_item_batch([("delete", ("1",)), ("delete", ("1",))], "a")
        assert len(server.container("things").history) == 5
        assert (await container.read_item("1", "a"))["text"] == "newer"


async def test_an_item_whose_key_is_not_the_one_of_the_request_is_refused(server: WireServer) -> None:
    server.create_container("things", "/a", "/b")
    async with container_client(server, "things") as container:
        assert await refused(container.create_item({"a": "x", "b": "y"})) == (400, 0)
        await container.create_item({"id": "1", "a": "x", "b": "y"})
        assert (await refused(container.read_item("1", ["x"])))[0] == 400


async def test_names_and_keys_may_be_any_text(server: WireServer) -> None:
    async with AsyncCosmosClient(server.url, server.key) as client:
        database = await client.create_database("ein Haus & 50 % mehr")
        container = await database.create_container("Dinge (neu)", PartitionKey(path="/pk"))
        for number, text in enumerate(["ä b+%25", "x'y\"z", "日本", ""]):
            await container.create_item({"id": f"{text} {number}", "pk": text})
            assert (await container.read_item(f"{text} {number}", text))["pk"] == text
        found, _ = await drain(container, start_time="Beginning")
        assert len(found) == 4


# --- Reads of many


@pytest.mark.parametrize("ranges", [1, 3])
async def test_queries_find_what_they_say_whatever_range_it_lies_in(server: WireServer, ranges: int) -> None:
    server.create_container("things", "/pk", ranges=ranges)
    server.create(
        "things", *({"id": str(n), "pk": f"key {n % 7}", "number": n, "in": {"half": n / 2}} for n in range(250))
    )
    async with container_client(server, "things") as container:

        async def query(text: str, **options: Any) -> list[Any]:
            return [found async for found in container.query_items(text, **options)]

        assert len(await query("SELECT * FROM c", max_item_count=11)) == 250
        assert await query("SELECT VALUE COUNT(1) FROM c WHERE c.number >= 100") == [150]
        assert len(await query("SELECT * FROM c", partition_key="key 3", max_item_count=4)) == 36
        assert len(await query("select * from c where c.pk = 'key 3' and c.number < 11")) == 2
        [found] = await query("SELECT * FROM c WHERE c.id = @id", parameters=[{"name": "@id", "value": "17"}])
        assert found["number"] == 17
        assert len(await query('SELECT * FROM root WHERE root["in"]["half"] != 1.5')) == 249
        assert len([found async for found in container.read_all_items(max_item_count=40)]) == 250
        with pytest.raises(CosmosHttpResponseError, match="does not know the query"):
            await query("SELECT c.id FROM c ORDER BY c.id")


def test_the_sync_client_reads_and_writes_too(server: WireServer) -> None:
    with CosmosClient(server.url, server.key) as client:
        database = client.get_database_client(DATABASE)
        container = database.create_container("things", PartitionKey(path="/pk"), default_ttl=60)
        assert container.read()["defaultTtl"] == 60
        now = {"mode": AVAD, "start_time": "Now", "feed_range": next(iter(container.read_feed_ranges()))}
        assert list(container.query_items_change_feed(**now)) == []
        continuation = container.client_connection.last_response_headers["etag"]
        container.create_item({"id": "1", "pk": "a"})
        container.delete_item("1", "a")
        server.split("things", "0")
        found = list(container.query_items_change_feed(continuation=continuation))
        assert [one["metadata"]["operationType"] for one in found] == ["create", "delete"]
        database.delete_container("things")
        assert [found["id"] for found in database.list_containers()] == []


# --- Partition keys


async def test_a_query_by_a_prefix_finds_all_below_it_across_a_split(server: WireServer) -> None:
    container = server.create_container("things", "/tenant", "/at/user", "/session", ranges=2)
    items = [
        {"id": f"{tenant} {user} {session}", "tenant": tenant, "at": {"user": user}, "session": session}
        for tenant in ("red", "blue")
        for user in (1, 2, None)
        for session in ("x", True)
    ]
    server.create("things", *items[:6])
    low = container.definition.epk(["red"])
    server.split("things", server.range_of("things", "red"), container.definition.epk(["red", 1]))
    assert low < container.definition.epk(["red", 1]) < f"{low}FF"
    server.create("things", *items[6:])
    async with container_client(server, "things") as client:
        for prefix in (["red"], ["red", 2], ["red", 2, "x"], ["blue", None], ["green"]):
            wanted = sorted(str(one["id"]) for one in items if container.definition.of(one)[: len(prefix)] == prefix)
            queried = [found async for found in client.query_items("SELECT * FROM c", partition_key=prefix)]
            assert sorted(ids(queried)) == wanted
        assert (await client.read_item("red 1 x", ["red", 1, "x"]))["at"] == {"user": 1}
        server.delete("things", "red 1 x", "red", 1, "x")
    assert container.history[-1].key == {"tenant": "red", "at/user": 1, "session": "x"}


COMPONENTS = (
    st.none()
    | st.booleans()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**53), 2**53)
)


@given(key=st.lists(COMPONENTS, min_size=1, max_size=3))
@example(key=["x"])
@example(key=[{}])
@example(key=["", -0.0, 0])
def test_the_effective_partition_key_is_the_sdks(key: list[object]) -> None:
    def ours(paths: list[str], values: list[object]) -> str:
        kind = "Hash" if len(paths) == 1 else "MultiHash"
        return Definition(tuple(paths), kind).epk(values)  # type: ignore[arg-type]

    single = PartitionKey(path="/a")
    assert ours(["/a"], key[:1]) == single._get_effective_partition_key_string(key[:1])  # type: ignore[arg-type]
    several = PartitionKey(path=["/a", "/b", "/c"])
    assert ours(["/a", "/b", "/c"], key) == several._get_effective_partition_key_string(key)  # type: ignore[arg-type]


async def test_the_feed_of_a_prefix_holds_what_lies_below_it(server: WireServer) -> None:
    server.create_container("things", "/a", "/b", ranges=2)
    server.create("things", *({"id": f"{a} {b}", "a": a, "b": b} for a in ("red", "blue") for b in (1, 2)))
    async with container_client(server, "things") as container:
        for prefix, wanted in ((["red"], ["red 1", "red 2"]), (["red", 2], ["red 2"]), (["green"], [])):
            found, _ = await drain(container, mode=LATEST, partition_key=prefix, start_time="Beginning")
            assert ids(found) == wanted
        _, continuation = await drain(container, mode=AVAD, partition_key=["red"], start_time="Now")
        server.delete("things", "red 1", "red", 1)
        server.delete("things", "blue 1", "blue", 1)
        found, _ = await drain(container, continuation=continuation)
        assert ids(found) == ["red 1"]


async def test_a_logical_partition_is_read_alone_and_after_a_split(server: WireServer) -> None:
    server.create_container("things", "/pk", ranges=2)
    server.create("things", *({"id": str(n), "pk": f"key {n % 5}"} for n in range(20)))
    async with container_client(server, "things") as container:
        assert len(await feed_ranges(container)) == 2
        found, continuation = await drain(container, partition_key="key 3", start_time="Beginning", max_item_count=2)
        assert ids(found) == ["3", "8", "13", "18"]
        server.split("things", server.range_of("things", "key 3"))
        server.create("things", {"id": "20", "pk": "key 3"}, {"id": "21", "pk": "key 4"})
        found, _ = await drain(container, continuation=continuation)
        assert ids(found) == ["20"]
