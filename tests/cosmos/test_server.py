"""The wire-level server keeps to the documented protocol: who may ask, which ranges there are, and how it refuses."""

from collections.abc import AsyncIterator
from email.utils import formatdate

import aiohttp
import pytest
from azure.core.exceptions import ServiceRequestError, ServiceResponseError
from azure.cosmos.exceptions import CosmosHttpResponseError

from tests.cosmos.conftest import StartServer
from tests.cosmos.raw_client import AVAD, LATEST, RawClient, raw_client
from tests.cosmos.sdk import AVAD as ALL_VERSIONS
from tests.cosmos.sdk import container_client, drain, feed_ranges
from tests.cosmos.server.behaviour import Behaviour
from tests.cosmos.server.errors import ServiceError, gone, internal, request_timeout, retry_with, throttled, unavailable
from tests.cosmos.server.faults import Kind
from tests.cosmos.server.partition_key import evenly
from tests.cosmos.server.wire import DATABASE, WireServer
from tests.faults import ALWAYS

ITEMS = f"dbs/{DATABASE}/colls/things/docs"


@pytest.fixture
async def raw(server: WireServer) -> AsyncIterator[RawClient]:
    server.create_container("things", "/pk", ranges=2)
    async with raw_client(server) as client:
        yield client


# --- Who asks


async def test_a_request_is_answered_only_with_the_signature_of_the_account(server: WireServer, raw: RawClient) -> None:
    assert (await raw.send("GET", "")).status == 200
    assert (await raw.send("GET", f"dbs/{DATABASE}")).status == 200
    async with raw_client(server, key="d3Jvbmc=") as stranger:
        assert (await stranger.send("GET", "")).status == 401
        assert (await stranger.ranges("things")).status == 401


async def test_a_signature_is_worth_nothing_for_another_date_or_resource(raw: RawClient) -> None:
    link = f"dbs/{DATABASE}/colls/things"
    signed = raw.authorization("GET", "colls", link, "Sun, 29 Nov 2026 12:00:00 GMT")
    stolen = {"authorization": signed, "x-ms-date": "Sun, 29 Nov 2026 12:00:00 GMT"}
    assert (await raw.send("GET", link, stolen)).status == 200
    assert (await raw.send("GET", f"{link}/pkranges", stolen)).status == 401
    assert (await raw.send("DELETE", link, stolen)).status == 401
    assert (await raw.send("GET", link, date="Sun, 29 Nov 2026 12:00:01 GMT")).status == 401
    assert (await raw.send("GET", link, {"authorization": ""})).status == 401


async def test_the_key_that_may_only_read_reads(server: WireServer, raw: RawClient) -> None:
    item = {"id": "1", "pk": "a"}
    async with raw_client(server, key=server.readonly_key) as reader:
        assert (await reader.feed("things", AVAD, "0", "*")).status == 304
        assert (await reader.send("POST", ITEMS, body=item)).status == 403
    assert (await raw.send("POST", ITEMS, body=item)).status == 201


async def test_a_token_of_entra_is_accepted_when_the_account_knows_it(server: WireServer, raw: RawClient) -> None:
    bearer = {"authorization": "type%3Daad%26ver%3D1.0%26sig%3Da.b.c"}
    assert (await raw.send("GET", "", bearer)).status == 401
    server.endpoint.tokens.add("a.b.c")
    assert (await raw.send("GET", "", bearer)).status == 200


async def test_the_sdk_tells_a_wrong_key_from_a_forbidden_one(server: WireServer) -> None:
    server.create_container("things", "/pk")
    with pytest.raises(CosmosHttpResponseError) as caught:
        async with container_client(server, "things", key="d3Jvbmc=") as container:
            await container.read()
    assert caught.value.status_code == 401
    async with container_client(server, "things", key=server.readonly_key) as container:
        with pytest.raises(CosmosHttpResponseError) as caught:
            await container.create_item({"id": "1", "pk": "a"})
        assert caught.value.status_code == 403
        server.deny("ReadContainer")
        with pytest.raises(CosmosHttpResponseError) as caught:
            await container.read()
        assert caught.value.status_code == 403


# --- Regions


async def test_the_sdk_reads_in_the_region_it_prefers_and_fails_over_to_another(start_server: StartServer) -> None:
    server = start_server(Behaviour(regions=("North", "South")))
    server.create_container("things", "/pk")
    server.create("things", {"id": "1", "pk": "a"})
    async with container_client(server, "things", preferred_locations=["South", "North"]) as container:
        await container.create_item({"id": "2", "pk": "a"})
        assert len((await drain(container, start_time="Beginning"))[0]) == 2
        assert (server.calls.count("CreateItem", region="North"), server.calls.count("CreateItem")) == (1, 1)
        assert server.calls.count("ReadChangeFeed", region="North") == 0
        server.drop("*", times=ALWAYS, region="South")
        assert len((await drain(container, start_time="Beginning"))[0]) == 2
        assert server.calls.count("ReadChangeFeed", region="North") > 0


# --- Partition key ranges


async def test_a_listing_of_ranges_is_told_until_nothing_is_new(server: WireServer, raw: RawClient) -> None:
    incremental = {"A-IM": "Incremental Feed"}
    first = await raw.ranges("things", **incremental)
    edges = [(found["minInclusive"], found["maxExclusive"]) for found in first.body["PartitionKeyRanges"]]
    assert edges == [("", "2" + "0" * 31), ("2" + "0" * 31, "FF")]
    assert all(found["status"] == "online" and found["parents"] == [] for found in first.body["PartitionKeyRanges"])
    again = await raw.ranges("things", **incremental, **{"If-None-Match": first.headers["etag"]})
    assert (again.status, again.body, again.headers["etag"]) == (304, None, first.headers["etag"])

    children = server.split("things", "0")
    news = await raw.ranges("things", **incremental, **{"If-None-Match": first.headers["etag"]})
    assert news.headers["etag"] != first.headers["etag"]
    assert [(found["id"], found["parents"]) for found in news.body["PartitionKeyRanges"]] == [
        (c, ["0"]) for c in children
    ]
    grandchildren = server.split("things", children[0])
    everything = await raw.ranges("things")
    assert {found["id"]: found["parents"] for found in everything.body["PartitionKeyRanges"]} == {
        "1": [],
        children[1]: ["0"],
        **{found: ["0", children[0]] for found in grandchildren},
    }


def test_ranges_are_everything_without_a_gap_whatever_becomes_of_them(server: WireServer) -> None:
    container = server.create_container("things", "/pk", ranges=5)
    assert evenly(1) == ["", "FF"]
    first, *_ = server.split("things", "2")
    server.split("things", first)
    server.merge("things", server.ranges("things")[1:4])
    server.merge("things", server.ranges("things")[-2:])
    found = sorted(container.ranges.values(), key=lambda one: one.low)
    assert (found[0].low, found[-1].high) == ("", "FF")
    assert [one.high for one in found[:-1]] == [one.low for one in found[1:]]


async def test_the_sdk_lists_the_ranges_of_a_moment(server: WireServer) -> None:
    server.create_container("things", "/pk", ranges=3)
    async with container_client(server, "things") as container:
        before = await feed_ranges(container)
        server.split("things", "1")
        after = await feed_ranges(container)
        server.merge("things", server.ranges("things")[:2])
        assert [len(before), len(after), len(await feed_ranges(container))] == [3, 4, 3]


async def test_the_sdk_lists_the_ranges_no_more_often_than_they_change(server: WireServer) -> None:
    server.create_container("things", "/pk", ranges=3)
    async with container_client(server, "things") as container:
        _, token = await drain(container, mode=ALL_VERSIONS, start_time="Now")
        server.calls.clear()
        for number in range(5):
            await container.upsert_item({"id": "1", "pk": f"key {number}"})
            assert (await container.read_item("1", f"key {number}"))["pk"] == f"key {number}"
            found, token = await drain(container, continuation=token)
            assert len(found) == 1
        assert server.calls.count("ReadPartitionKeyRanges") == 0
        assert server.calls.count("ReadContainer") == 0


# --- Refusals


@pytest.mark.parametrize(
    "error",
    [throttled(1), unavailable(), internal(), request_timeout(), retry_with(), gone(1002), gone(1007), gone(1008)],
    ids=lambda error: f"{error.status}-{error.sub_status}",
)
async def test_a_fault_happens_as_often_as_it_was_asked_for(
    server: WireServer, raw: RawClient, error: ServiceError
) -> None:
    server.fail("ReadChangeFeed", error, times=2, range_id="1")
    assert (await raw.feed("things", AVAD, "0", "*")).status == 304
    for _ in range(2):
        refused = await raw.feed("things", AVAD, "1", "*")
        assert (refused.status, refused.sub_status) == (error.status, error.sub_status)
        assert refused.body == {"code": error.code, "message": error.message}
    assert (await raw.feed("things", AVAD, "1", "*")).status == 304
    assert server.calls.errors == {("ReadChangeFeed", error.status, error.sub_status): 2}


async def test_a_throttled_caller_is_told_when_to_come_back(server: WireServer, raw: RawClient) -> None:
    server.fail("*", throttled(1234))
    refused = await raw.ranges("things")
    assert (refused.status, refused.headers["x-ms-retry-after-ms"]) == (429, "1234")


async def test_a_connection_breaks_before_the_answer_in_it_or_behind_the_deed(
    server: WireServer, raw: RawClient
) -> None:
    for number, (kind, done) in enumerate([(Kind.DROP, False), (Kind.CUT, True), (Kind.LOST, True)]):
        server.drop("CreateItem", kind=kind)
        with pytest.raises(aiohttp.ClientError):
            await raw.send("POST", ITEMS, body={"id": str(number), "pk": "a"})
        # aiohttp asks once more by itself when a connection breaks that it had kept.
        server.drop("ReadChangeFeed", times=ALWAYS, kind=kind)
        with pytest.raises(aiohttp.ClientError):
            await raw.feed("things", AVAD, "0", "*")
        server.clear_faults()
        assert (str(number) in {item["id"] for item in server.container("things").items()}) == done


async def test_the_sdk_takes_a_broken_connection_for_one(server: WireServer) -> None:
    server.create_container("things", "/pk")
    async with container_client(server, "things", retry_total=1, retry_connect=1, retry_read=1) as container:
        await container.read()
        server.drop("ReadContainer", times=ALWAYS)
        with pytest.raises((ServiceRequestError, ServiceResponseError)):
            await container.read()


async def test_what_is_not_there_is_refused(server: WireServer, raw: RawClient) -> None:
    missing = await raw.send("GET", f"dbs/{DATABASE}/colls/others")
    assert (missing.status, missing.sub_status) == (404, 1003)
    assert (await raw.send("GET", f"dbs/{DATABASE}/colls/things/sprocs/x")).status == 400
    assert (await raw.feed("things", AVAD, "7", "*")).sub_status == 1002
    assert (await raw.feed("things", {"A-IM": "Something"}, "0", "*")).status == 400
    assert (await raw.feed("things", LATEST, "0", '"text"')).status == 400


async def test_the_name_of_a_container_made_again_does_not_fool_who_intends_the_first(
    server: WireServer, raw: RawClient
) -> None:
    first = server.container("things").rid
    intended = {"x_ms_cosmos_intended_collection_rid": first}
    assert (await raw.feed("things", AVAD, "0", "*", **intended)).status == 304
    second = server.recreate_container("things")
    refused = await raw.feed("things", AVAD, "0", "*", **intended)
    assert (refused.status, refused.sub_status) == (400, 1024)
    assert second.rid != first
    assert (await raw.feed("things", AVAD, "0", "*", x_ms_cosmos_intended_collection_rid=second.rid)).status == 304


# --- Every answer


async def test_a_resource_is_known_by_its_rid_too_and_names_its_owner(server: WireServer, raw: RawClient) -> None:
    rid = server.container("things").rid
    by_name = await raw.send("GET", f"dbs/{DATABASE}/colls/things")
    database = by_name.body["_self"].split("/")[1]
    signed = {"authorization": raw.authorization("GET", "colls", rid.lower(), date := formatdate(usegmt=True))}
    by_rid = await raw.send("GET", f"dbs/{database}/colls/{rid}", {**signed, "x-ms-date": date})
    assert by_rid.body == by_name.body
    assert by_rid.headers["x-ms-alt-content-path"] == f"dbs/{DATABASE}"
    assert by_rid.headers["x-ms-content-path"] == database
    assert (await raw.ranges("things")).headers["x-ms-alt-content-path"] == f"dbs/{DATABASE}/colls/things"


async def test_every_answer_has_a_charge_and_an_activity_and_they_are_counted(
    server: WireServer, raw: RawClient
) -> None:
    server.behaviour.request_charge = 2.5
    server.calls.clear()
    answers = [
        await raw.feed("things", AVAD, "0", "*"),
        await raw.feed("things", AVAD, "9", "*"),
        await raw.ranges("things"),
    ]
    assert [one.status for one in answers] == [304, 410, 200]
    assert [one.headers["x-ms-request-charge"] for one in answers] == ["2.5"] * 3
    assert len({one.headers["x-ms-activity-id"] for one in answers}) == 3
    assert server.calls.request_units == 7.5
    assert server.calls.counts() == {"ReadChangeFeed": 2, "ReadPartitionKeyRanges": 1}
    assert server.calls.count("ReadChangeFeed", range_id="0") == 1
