"""`changefeed streams`: who reads what, of one gateway or of several."""

import asyncio

from changefeed.v1.subscribe_pb2 import SUBSCRIPTION_STATE_LIVE
from changefeed_client import BEGINNING, NOW, collection, connect, logical_partition
from changefeed_gateway.cli.exits import ExitCode
from tests.cli.conftest import CommandLine, MemoryGateway
from tests.monitored import until

SECRET = "hunter2"


async def test_the_open_streams_are_listed_and_no_key_is(
    changefeed: CommandLine, memory_gateway: MemoryGateway
) -> None:
    documents = collection("mem/documents")
    memory_gateway.documents.put(SECRET, "1", {"note": SECRET})
    async with (
        connect(memory_gateway.target) as client,
        client.tail(documents, BEGINNING) as whole,
        client.tail(documents, NOW, scope=logical_partition(SECRET)) as part,
    ):
        async for delivery in whole:
            if delivery.events:
                break
        await anext(aiter(part))

        async def both_live() -> bool:
            [page] = [page async for page in client.streams()]
            return [stream.state for stream in page.streams].count(SUBSCRIPTION_STATE_LIVE) == 2

        await until(both_live)
        listed, for_people, elsewhere = await asyncio.gather(
            changefeed.run("streams", "--json", "--target", memory_gateway.target, "--target", memory_gateway.target),
            changefeed.run("streams", "mem/documents"),
            changefeed.run("streams", "mem/plain", "--json"),
        )
    first, second = listed.records  # each once, of a gateway that was named twice
    assert (first["type"], first["scope"]) == ("stream", "STREAM_SCOPE_ENTIRE_COLLECTION")
    assert first["address"] == {"connection": "mem", "database": "main", "collection": "documents"}
    assert second["scope"] == "STREAM_SCOPE_LOGICAL_PARTITION"
    assert (first["events"], first["host"], first["changes_behind"]) == ("1", "127.0.0.1", "0")
    assert "a logical partition" in for_people.out
    assert elsewhere.records == []
    assert SECRET not in listed.out + for_people.out


async def test_a_gateway_that_is_away_hides_no_other_and_is_told(
    changefeed: CommandLine, memory_gateway: MemoryGateway
) -> None:
    documents = collection("mem/documents")
    async with connect(memory_gateway.target) as client, client.tail(documents, NOW) as tail:
        await anext(aiter(tail))
        ended = await changefeed.run(
            "streams", "--json", "--target", "127.0.0.1:1", "--target", memory_gateway.target, "--target", "127.0.0.1:2"
        )
    assert (ended.code, len(ended.records)) == (ExitCode.TRANSIENT, 1)
    assert "127.0.0.1:1" in ended.err
    assert "127.0.0.1:2" in ended.err


async def test_streams_come_in_pages_and_each_once(memory_gateway: MemoryGateway) -> None:
    router = memory_gateway._router
    async with connect(memory_gateway.target) as client:
        opened = [router.streams.opening(str(number), "host") for number in range(1203)]
        try:
            for one in opened:
                one.__enter__()
            pages = [page async for page in client.streams()]
        finally:
            for one in opened:
                one.__exit__(None, None, None)
        assert [len(page.streams) for page in pages] == [500, 500, 203]
        assert [stream.request_id for page in pages for stream in page.streams] == list(map(str, range(1203)))
