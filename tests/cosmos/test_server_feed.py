"""The change feed of the wire-level server, page by page as it goes over the wire."""

from collections.abc import AsyncIterator
from datetime import timedelta
from email.utils import formatdate

import pytest

from tests.cosmos.raw_client import AVAD, LATEST, RawClient, raw_client
from tests.cosmos.sdk import ids
from tests.cosmos.server.wire import WireServer


@pytest.fixture
async def raw(server: WireServer) -> AsyncIterator[RawClient]:
    server.create_container("things", "/pk")
    async with raw_client(server) as client:
        yield client


def item(item_id: str, pk: str = "a", **more: object) -> dict[str, object]:
    return {"id": item_id, "pk": pk, **more}


# --- Positions


async def test_now_is_behind_what_is_there_and_a_continuation_behind_what_was_read(
    server: WireServer, raw: RawClient
) -> None:
    server.create("things", item("1"), item("2"))
    now = await raw.feed("things", AVAD, "0", "*")
    assert (now.status, now.body) == (304, None)
    server.create("things", item("3"), item("4"), item("5"))
    page = await raw.feed("things", AVAD, "0", now.headers["etag"], x_ms_max_item_count="2")
    assert (page.status, ids(page.documents), page.body["_count"]) == (200, ["3", "4"], 2)
    page = await raw.feed("things", AVAD, "0", page.headers["etag"])
    assert ids(page.documents) == ["5"]
    end = await raw.feed("things", AVAD, "0", page.headers["etag"])
    assert (end.status, end.headers["etag"]) == (304, page.headers["etag"])
    assert end.headers["x-ms-session-token"] == "0:-1#5"


async def test_latest_version_begins_at_the_beginning_or_at_a_time(server: WireServer, raw: RawClient) -> None:
    server.create("things", item("1"))
    server.pass_time(timedelta(seconds=100))
    server.create("things", item("2"))
    beginning = await raw.feed("things", LATEST, "0")
    assert ids(beginning.documents) == ["1", "2"]
    since = formatdate(server.account.clock.now() - 50, usegmt=True)
    assert ids((await raw.feed("things", LATEST, "0", If_Modified_Since=since)).documents) == ["2"]
    late = formatdate(server.account.clock.now() + 50, usegmt=True)
    assert (await raw.feed("things", LATEST, "0", If_Modified_Since=late)).status == 304
    assert ids((await raw.feed("things", LATEST, "0", '"0"', If_Modified_Since=since)).documents) == ["2"]


async def test_all_versions_and_deletes_has_no_beginning_and_no_time(server: WireServer, raw: RawClient) -> None:
    assert (await raw.feed("things", AVAD, "0")).status == 400
    assert (await raw.feed("things", AVAD, "0", '"0"', If_Modified_Since=formatdate(usegmt=True))).status == 400
    assert (await raw.feed("things", {"A-IM": AVAD["A-IM"]}, "0", "*")).status == 400


async def test_an_account_that_has_not_opted_in_says_so(server: WireServer, raw: RawClient) -> None:
    server.behaviour.all_versions_and_deletes = False
    refused = await raw.feed("things", AVAD, "0", "*")
    assert refused.status == 400
    assert refused.body["message"] == "Change Feed 'All Versions and Deletes' mode must be enabled."
    assert (await raw.feed("things", LATEST, "0", "*")).status == 304


async def test_a_replica_that_lags_has_an_earlier_now(server: WireServer, raw: RawClient) -> None:
    server.create("things", item("1"), item("2"), item("3"))
    server.lag("things", 2)
    assert ids((await raw.feed("things", AVAD, "0", "*")).documents) == ["2", "3"]
    server.lag("things", 9)
    assert ids((await raw.feed("things", AVAD, "0", "*")).documents) == ["1", "2", "3"]


async def test_history_that_is_older_than_the_retention_is_gone_for_all_versions_only(
    server: WireServer, raw: RawClient
) -> None:
    start = (await raw.feed("things", AVAD, "0", "*")).headers["etag"]
    server.create("things", item("1"), item("2"))
    middle = (await raw.feed("things", AVAD, "0", start, x_ms_max_item_count="1")).headers["etag"]
    end = (await raw.feed("things", AVAD, "0", middle)).headers["etag"]
    server.trim("things")
    assert [(await raw.feed("things", AVAD, "0", etag)).status for etag in (start, middle, end)] == [400, 400, 304]
    server.create("things", item("3"))
    assert ids((await raw.feed("things", AVAD, "0", end)).documents) == ["3"]
    assert ids((await raw.feed("things", LATEST, "0", start)).documents) == ["1", "2", "3"]
    [child, _] = server.split("things", "0")
    assert (await raw.feed("things", AVAD, child, start)).status == 400


# --- Records


async def test_a_record_of_all_versions_has_the_documented_fields(server: WireServer, raw: RawClient) -> None:
    server.create("things", item("1", text="old"))
    server.upsert("things", item("1", text="new"))
    server.delete("things", "1", "a")
    create, replace, delete = (await raw.feed("things", AVAD, "0", '"0"')).documents
    now = server.account.clock.now()
    assert [one["metadata"]["operationType"] for one in (create, replace, delete)] == ["create", "replace", "delete"]
    assert [one["metadata"]["lsn"] for one in (create, replace, delete)] == [1, 2, 3]
    assert all(isinstance(one["metadata"]["crts"], int) for one in (create, replace, delete))
    assert all(now - 60 < one["metadata"]["crts"] <= now for one in (create, replace, delete))
    assert "previousImageLSN" not in create["metadata"]
    assert [one["metadata"]["previousImageLSN"] for one in (replace, delete)] == [1, 2]
    assert create["current"]["text"] == "old"
    assert replace["current"].keys() == {"id", "pk", "text", "_rid", "_self", "_etag", "_attachments", "_ts"}
    assert replace["current"]["_rid"] == create["current"]["_rid"]
    assert replace["current"]["_etag"] != create["current"]["_etag"]
    assert delete == {
        "metadata": {
            "lsn": 3,
            "crts": delete["metadata"]["crts"],
            "operationType": "delete",
            "previousImageLSN": 2,
            "id": "1",
            "partitionKey": {"pk": "a"},
        }
    }


async def test_both_forms_of_a_delete_and_the_image_before(server: WireServer, raw: RawClient) -> None:
    server.create("things", item("1", text="old"))
    server.delete("things", "1", "a")
    assert "current" not in (await raw.feed("things", AVAD, "0", '"1"')).documents[0]
    server.behaviour.deleted_current = True
    server.behaviour.previous_image = True
    [delete] = (await raw.feed("things", AVAD, "0", '"1"')).documents
    assert delete["current"] == {}
    assert delete["previous"]["text"] == "old"


async def test_a_delete_by_the_time_to_live_says_so(server: WireServer, raw: RawClient) -> None:
    server.create("things", item("1"), item("2"))
    server.expire_item("things", "1", "a")
    server.delete("things", "2", "a")
    expired, deleted = (await raw.feed("things", AVAD, "0", '"2"')).documents
    assert expired["metadata"]["timeToLiveExpired"] is True
    assert "timeToLiveExpired" not in deleted["metadata"]


async def test_latest_version_leaves_out_what_was_replaced_or_deleted(server: WireServer, raw: RawClient) -> None:
    server.create("things", item("1"), item("2"), item("3"))
    server.upsert("things", item("1", text="new"))
    server.delete("things", "2", "a")
    found = (await raw.feed("things", LATEST, "0")).documents
    assert [(one["id"], one["_lsn"], one.get("text")) for one in found] == [("3", 3, None), ("1", 4, "new")]


# --- Pages


async def test_a_transaction_is_never_cut(server: WireServer, raw: RawClient) -> None:
    server.create("things", item("before"))
    server.transaction("things", *(item(str(number)) for number in range(7)), item("3", text="again"))
    server.create("things", item("after"))
    sizes, etag = [], '"0"'
    while (page := await raw.feed("things", AVAD, "0", etag, x_ms_max_item_count="2")).status == 200:
        sizes.append([one["metadata"]["lsn"] for one in page.documents])
        etag = page.headers["etag"]
    assert sizes == [[1, *[2] * 8], [3]]


async def test_a_page_may_have_nothing_in_it(server: WireServer, raw: RawClient) -> None:
    server.create("things", item("1"))
    server.empty_pages("things", "0", 2)
    etag = '"0"'
    for _ in range(2):
        page = await raw.feed("things", AVAD, "0", etag)
        assert (page.status, page.documents) == (200, [])
        etag = page.headers["etag"]
    assert ids((await raw.feed("things", AVAD, "0", etag)).documents) == ["1"]


async def test_headers_narrow_a_page_to_effective_partition_keys(server: WireServer, raw: RawClient) -> None:
    server.create("things", *(item(str(number), f"key {number}") for number in range(20)))
    epk = server.container("things").definition.epk(["key 7"])
    interval = {"x_ms_start_epk": epk, "x_ms_end_epk": f"{epk}FF"}
    assert (await raw.feed("things", AVAD, "0", '"0"', **interval)).status == 400
    interval["x_ms_read_key_type"] = "EffectivePartitionKeyRange"
    page = await raw.feed("things", AVAD, "0", '"0"', **interval)
    assert ids(page.documents) == ["7"]
    end = await raw.feed("things", AVAD, "0", page.headers["etag"], **interval)
    assert (end.status, end.headers["etag"]) == (304, '"20"')


# --- Splits and merges


async def test_children_go_on_behind_their_parents_continuation(server: WireServer, raw: RawClient) -> None:
    keys = [f"key {number}" for number in range(20)]
    server.create("things", *(item(key, key) for key in keys[:10]))
    read = await raw.feed("things", AVAD, "0", '"0"', x_ms_max_item_count="4")
    children = server.split("things", "0")
    refused = await raw.feed("things", AVAD, "0", read.headers["etag"])
    assert (refused.status, refused.sub_status) == (410, 1002)
    server.create("things", *(item(key, key) for key in keys[10:]))
    rest = [(await raw.feed("things", AVAD, child, read.headers["etag"])).documents for child in children]
    assert all(rest)
    assert sorted(ids(read.documents) + ids(rest[0]) + ids(rest[1])) == sorted(keys)
    for child, found in zip(children, rest, strict=True):
        assert all(server.range_of("things", key) == child for key in ids(found))


async def test_a_merged_range_goes_on_for_latest_version_and_fails_all_versions(
    server: WireServer, raw: RawClient
) -> None:
    left, right = server.split("things", "0")
    ends = {range_id: server.container("things").ranges[range_id].high for range_id in (left, right)}
    server.create("things", *(item(str(number), f"key {number}") for number in range(10)))
    heads = [server.container("things").ranges[range_id].lsn for range_id in (left, right)]
    merged = server.merge("things", [left, right])
    assert (await raw.feed("things", LATEST, left, '"0"')).sub_status == 1002
    half = {"x_ms_start_epk": "", "x_ms_end_epk": ends[left], "x_ms_read_key_type": "EffectivePartitionKeyRange"}
    first = (await raw.feed("things", LATEST, merged, '"0"', **half)).documents
    half |= {"x_ms_start_epk": ends[left], "x_ms_end_epk": "FF"}
    second = (await raw.feed("things", LATEST, merged, '"0"', **half)).documents
    assert first
    assert second
    assert sorted(ids(first) + ids(second)) == [str(number) for number in range(10)]
    lsns = [one["_lsn"] for one in (await raw.feed("things", LATEST, merged)).documents]
    assert lsns == sorted(lsns)
    for etag in ('"0"', *(f'"{head}"' for head in heads)):
        refused = await raw.feed("things", AVAD, merged, etag, **half)
        assert refused.status == 500
        assert refused.body["message"] == "Partition has more than two children which is not supported"
    now = await raw.feed("things", AVAD, merged, "*")
    server.create("things", item("new", "key 1"))
    assert ids((await raw.feed("things", AVAD, merged, now.headers["etag"])).documents) == ["new"]
