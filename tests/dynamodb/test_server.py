"""The wire-level server does what the service is documented to do, as unmodified boto3 sees it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from tests.dynamodb.conftest import StartServer
from tests.dynamodb.server.behaviour import Behaviour
from tests.dynamodb.server.errors import internal, throttled
from tests.dynamodb.server.shapes import check_answer
from tests.dynamodb.server.wire import WireServer
from tests.dynamodb.shop import TABLE, Shop, key, numbers


@pytest.fixture
def shop(server: WireServer) -> Shop:
    shop = Shop(server.url)
    shop.create()
    return shop


def refused(call: Callable[[], object]) -> str:
    """The code that a call is refused with."""
    with pytest.raises(ClientError) as caught:
        call()
    return caught.value.response["Error"]["Code"]


# --- Records


def test_a_record_has_the_documented_fields(server: WireServer, shop: Shop) -> None:
    shop.put("a", text={"S": "old"})
    shop.put("a", text={"S": "new"}, count={"N": "1.50"})
    shop.delete("a")
    insert, modify, remove = shop.read(shop.iterator(shop.shards()[0]["ShardId"]))
    assert [r["eventName"] for r in (insert, modify, remove)] == ["INSERT", "MODIFY", "REMOVE"]
    assert len({r["eventID"] for r in (insert, modify, remove)}) == 3
    assert "OldImage" not in insert["dynamodb"]
    assert modify["dynamodb"]["OldImage"]["text"] == {"S": "old"}
    assert modify["dynamodb"]["NewImage"] == {**key("a"), "text": {"S": "new"}, "count": {"N": "1.5"}}
    assert "NewImage" not in remove["dynamodb"]
    for record in (insert, modify, remove):
        assert record["eventSource"] == "aws:dynamodb"
        assert record["dynamodb"]["Keys"] == key("a")
        assert record["dynamodb"]["ApproximateCreationDateTime"].microsecond == 0
        assert "userIdentity" not in record


@pytest.mark.parametrize(
    ("view_type", "images"),
    [
        ("KEYS_ONLY", set[str]()),
        ("NEW_IMAGE", {"NewImage"}),
        ("OLD_IMAGE", {"OldImage"}),
        ("NEW_AND_OLD_IMAGES", {"NewImage", "OldImage"}),
    ],
)
def test_the_view_type_decides_about_images(server: WireServer, view_type: str, images: set[str]) -> None:
    shop = Shop(server.url)
    shop.create(view_type)  # type: ignore[arg-type]
    shop.put("a")
    shop.put("a", text={"S": "new"})
    *_, modify = shop.read(shop.iterator(shop.shards()[0]["ShardId"]))
    assert {name for name in modify["dynamodb"] if name.endswith("Image")} == images


def test_what_changes_nothing_writes_no_record(shop: Shop) -> None:
    shop.put("a", text={"S": "same"})
    shop.put("a", text={"S": "same"})
    shop.delete("b")
    shop.tables.update_item(
        TableName=TABLE,
        Key=key("a"),
        UpdateExpression="SET #t = :t",
        ExpressionAttributeNames={"#t": "text"},
        ExpressionAttributeValues={":t": {"S": "same"}},
    )
    assert len(list(shop.read(shop.iterator(shop.shards()[0]["ShardId"])))) == 1


def test_an_update_changes_or_creates_an_item(shop: Shop) -> None:
    for partition in ("a", "b"):
        shop.tables.update_item(
            TableName=TABLE,
            Key=key(partition),
            UpdateExpression="SET text = :t, n = :n",
            ExpressionAttributeValues={":t": {"S": "x"}, ":n": {"N": "2"}},
        )
    first, second = shop.read(shop.iterator(shop.shards()[0]["ShardId"]))
    assert first["eventName"] == second["eventName"] == "INSERT"
    assert second["dynamodb"]["NewImage"] == {**key("b"), "text": {"S": "x"}, "n": {"N": "2"}}


def test_numbers_keep_38_digits_and_no_more(shop: Shop) -> None:
    digits = "12345678901234567890123456789012345678"
    for number in (digits, "-0." + digits, "0.000", "1e3", "-0"):
        shop.put(number, text={"N": number})
    found = [r["dynamodb"]["NewImage"]["text"]["N"] for r in shop.read(shop.iterator(shop.shards()[0]["ShardId"]))]
    assert found == [digits, "-0." + digits, "0", "1000", "0"]
    assert refused(lambda: shop.put("a", text={"N": digits + "9"})) == "ValidationException"
    assert refused(lambda: shop.put("a", text={"N": "many"})) == "ValidationException"
    assert refused(lambda: shop.put("a", text={"N": "1e126"})) == "ValidationException"


def test_equal_numbers_are_the_same_key(shop: Shop) -> None:
    shop.put("a", "1.50")
    shop.put("a", "1.5", text={"S": "again"})
    names = [r["eventName"] for r in shop.read(shop.iterator(shop.shards()[0]["ShardId"]))]
    assert names == ["INSERT", "MODIFY"]


def test_an_expired_item_is_removed_by_the_service(server: WireServer, shop: Shop) -> None:
    shop.put("a")
    server.expire_item(TABLE, key("a"))
    *_, removed = shop.read(shop.iterator(shop.shards()[0]["ShardId"]))
    assert removed["eventName"] == "REMOVE"
    assert removed["userIdentity"] == {"Type": "Service", "PrincipalId": "dynamodb.amazonaws.com"}


def test_sequence_numbers_grow_in_length(shop: Shop) -> None:
    for number in range(40):
        shop.put("a", number)
    found = [r["dynamodb"]["SequenceNumber"] for r in shop.read(shop.iterator(shop.shards()[0]["ShardId"]))]
    assert {len(text) for text in found} == {21, 22}
    assert [int(text) for text in found] == sorted(int(text) for text in found)
    assert found != sorted(found)


# --- Iterators


def test_every_type_of_iterator_starts_where_it_should(server: WireServer, shop: Shop) -> None:
    [shard] = (s["ShardId"] for s in shop.shards())
    shop.put("a", 1)
    server.pass_time(timedelta(seconds=10))
    time = datetime.fromtimestamp(server.account.clock.now(), UTC)
    server.pass_time(timedelta(seconds=10))
    shop.put("a", 2)
    shop.put("a", 3)
    second = list(shop.read(shop.iterator(shard)))[1]["dynamodb"]["SequenceNumber"]
    latest = shop.iterator(shard, "LATEST")
    shop.put("a", 4)
    assert numbers(shop.read(shop.iterator(shard, "TRIM_HORIZON"))) == ["1", "2", "3", "4"]
    assert numbers(shop.read(latest)) == ["4"]
    assert numbers(shop.read(shop.iterator(shard, "AT_SEQUENCE_NUMBER", SequenceNumber=second))) == ["2", "3", "4"]
    assert numbers(shop.read(shop.iterator(shard, "AFTER_SEQUENCE_NUMBER", SequenceNumber=second))) == ["3", "4"]
    assert numbers(shop.read(shop.iterator(shard, "AT_TIMESTAMP", Timestamp=time))) == ["2", "3", "4"]
    early = time - timedelta(days=3)
    assert len(list(shop.read(shop.iterator(shard, "AT_TIMESTAMP", Timestamp=early)))) == 4


@pytest.mark.parametrize(("exact", "found"), [(True, ["1", "2"]), (False, ["2"])])
def test_a_time_is_compared_exactly_or_rounded(start_server: StartServer, exact: bool, found: list[str]) -> None:
    server = start_server(Behaviour(exact_times=exact))
    shop = Shop(server.url)
    shop.create()
    [shard] = (s["ShardId"] for s in shop.shards())
    # Half a second after a whole one, then in the next.
    server.account.clock.advance(timedelta(seconds=1.5 - server.account.clock.now() % 1))
    shop.put("a", 1)
    time = int(server.account.clock.now())
    server.account.clock.advance(timedelta(seconds=1))
    shop.put("a", 2)
    later = datetime.fromtimestamp(time, UTC)
    assert numbers(shop.read(shop.iterator(shard, "AT_TIMESTAMP", Timestamp=later))) == ["1", "2"]
    # The SDK cuts a fraction of a second off, so it is asked for without the SDK.
    answer = server.endpoint.streams.operations()["GetShardIterator"](
        {"StreamArn": shop.arn, "ShardId": shard, "ShardIteratorType": "AT_TIMESTAMP", "Timestamp": time + 0.2}
    )
    assert isinstance(answer, dict)
    assert numbers(shop.read(answer["ShardIterator"])) == found


def test_an_iterator_is_refused_when_it_cannot_be_made(server: WireServer, shop: Shop) -> None:
    [shard] = (s["ShardId"] for s in shop.shards())
    future = datetime.fromtimestamp(server.account.clock.now() + 60, UTC)
    assert refused(lambda: shop.iterator(shard, "AT_TIMESTAMP", Timestamp=future)) == "ValidationException"
    assert refused(lambda: shop.iterator(shard, "AT_TIMESTAMP")) == "ValidationException"
    assert refused(lambda: shop.iterator(shard, "AFTER_SEQUENCE_NUMBER")) == "ValidationException"
    assert refused(lambda: shop.iterator(shard[:-1] + "x")) == "ResourceNotFoundException"
    server.behaviour.at_timestamp = False
    now = datetime.fromtimestamp(server.account.clock.now() - 60, UTC)
    assert refused(lambda: shop.iterator(shard, "AT_TIMESTAMP", Timestamp=now)) == "ValidationException"


def test_iterators_expire_after_fifteen_minutes_or_on_command(server: WireServer, shop: Shop) -> None:
    iterator = shop.iterator(shop.shards()[0]["ShardId"])
    server.pass_time(timedelta(minutes=14))
    renewed = shop.get(iterator)["NextShardIterator"]
    server.pass_time(timedelta(minutes=2))
    assert refused(lambda: shop.get(iterator)) == "ExpiredIteratorException"
    shop.get(renewed)
    server.pass_time(timedelta(hours=3), iterators_age=False)
    renewed = shop.get(renewed)["NextShardIterator"]
    server.expire_iterators()
    assert refused(lambda: shop.get(renewed)) == "ExpiredIteratorException"
    assert refused(lambda: shop.get("no iterator")) == "ValidationException"


# --- Pages


def test_pages_are_cut_by_count_and_by_a_megabyte(shop: Shop) -> None:
    for number in range(5):
        shop.put("a", number, text={"S": "x" * 300_000})
    iterator = shop.iterator(shop.shards()[0]["ShardId"])
    assert numbers(iter(shop.get(iterator)["Records"])) == ["0", "1", "2"]
    assert numbers(iter(shop.get(iterator, limit=2)["Records"])) == ["0", "1"]
    assert numbers(shop.read(iterator)) == ["0", "1", "2", "3", "4"]
    assert refused(lambda: shop.get(iterator, limit=1001)) == "LimitExceededException"
    assert refused(lambda: shop.put("a", 9, text={"S": "x" * 500_000})) == "ValidationException"


def test_empty_pages_come_before_data_when_asked(server: WireServer, shop: Shop) -> None:
    [shard] = (s["ShardId"] for s in shop.shards())
    shop.put("a")
    server.empty_pages(shard, 3)
    page = shop.get(shop.iterator(shard))
    for _ in range(2):
        assert not page["Records"]
        page = shop.get(page["NextShardIterator"])
    assert not page["Records"]
    assert len(shop.get(page["NextShardIterator"])["Records"]) == 1


# --- Shards


def test_splits_of_splits_and_rotations_keep_every_change_and_their_lineage(server: WireServer, shop: Shop) -> None:
    shop.put("a", 0)
    [first] = server.open_shards(TABLE)
    left, right = server.split(first)
    shop.put("a", 1)
    last = server.rotate(left)
    parts = [*server.split(right), last]
    shop.put("a", 2)
    listed = {s["ShardId"]: s for s in shop.shards()}
    assert {s: listed[s].get("ParentShardId") for s in listed} == {
        first: None,
        left: first,
        right: first,
        last: left,
        **dict.fromkeys(parts[:2], right),
    }
    assert server.open_shards(TABLE) == [s for s in listed if "EndingSequenceNumber" not in _range(listed[s])]
    for shard in listed.values():
        if "ParentShardId" in shard:
            parent = _range(listed[shard["ParentShardId"]])
            assert int(parent["EndingSequenceNumber"]) < int(_range(shard)["StartingSequenceNumber"])
    everything = [number for shard in listed for number in numbers(shop.read(shop.iterator(shard)))]
    assert everything == ["0", "1", "2"]


def _range(shard: object) -> dict[str, str]:
    assert isinstance(shard, dict)
    found = shard["SequenceNumberRange"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("at_once", [True, False])
def test_a_closed_shard_ends_without_a_next_iterator(server: WireServer, shop: Shop, at_once: bool) -> None:
    server.behaviour.end_with_last_record = at_once
    shop.put("a")
    [shard] = server.open_shards(TABLE)
    open_iterator = shop.iterator(shard, "LATEST")
    server.rotate(shard)
    page = shop.get(shop.iterator(shard))
    assert len(page["Records"]) == 1
    assert ("NextShardIterator" not in page) is at_once
    if not at_once:
        page = shop.get(page["NextShardIterator"])
        assert not page["Records"]
        assert "NextShardIterator" not in page
    assert "NextShardIterator" not in shop.get(open_iterator)


def test_a_listing_has_pages_of_a_hundred(server: WireServer, shop: Shop) -> None:
    [shard] = server.open_shards(TABLE)
    for _ in range(250):
        shard = server.rotate(shard)
    assert len(shop.streams.describe_stream(StreamArn=shop.arn)["StreamDescription"]["Shards"]) == 100
    for limit in (1, 7, 100):
        found = [s["ShardId"] for s in shop.shards(limit)]
        assert len(found) == len(set(found)) == 251
    assert refused(lambda: shop.shards(101)) == "ValidationException"


def test_children_are_listed_late_and_parents_shown_open_when_asked(server: WireServer, shop: Shop) -> None:
    [parent] = server.open_shards(TABLE)
    children = server.split(parent, listed=False)
    [shown] = shop.shards()
    assert "EndingSequenceNumber" in shown["SequenceNumberRange"]
    server.list_everything()
    assert [s["ShardId"] for s in shop.shards()] == [parent, *children]
    child = server.rotate(children[0], parent_shown_open=True)
    shown = next(s for s in shop.shards() if s["ShardId"] == children[0])
    assert "EndingSequenceNumber" not in shown["SequenceNumberRange"]
    assert child in [s["ShardId"] for s in shop.shards()]


def test_the_pages_of_a_listing_disagree_when_asked(server: WireServer, shop: Shop) -> None:
    [first] = server.open_shards(TABLE)
    server.hold_listing(TABLE, first_page_only=True)
    second = server.rotate(first)
    assert [s["ShardId"] for s in shop.shards(limit=1)] == [first]
    server.hold_listing(TABLE, first_page_only=True)
    server.rotate(second)
    shown = shop.shards(limit=1)
    assert [s["ShardId"] for s in shown][:2] == [first, second]
    server.list_everything()
    assert len(shop.shards(limit=1)) == 3


def test_the_shard_filter_names_the_children_or_is_ignored(server: WireServer, shop: Shop) -> None:
    [parent] = server.open_shards(TABLE)
    children = server.split(parent)
    server.rotate(children[0])

    def listed() -> list[str]:
        answer = shop.streams.describe_stream(
            StreamArn=shop.arn, ShardFilter={"Type": "CHILD_SHARDS", "ShardId": parent}
        )
        return [s["ShardId"] for s in answer["StreamDescription"]["Shards"]]

    assert listed() == children
    server.behaviour.shard_filter = False
    assert len(listed()) == 4


# --- History that goes


def test_a_trim_forgets_changes_closed_shards_and_positions(server: WireServer, shop: Shop) -> None:
    shop.put("a", 1)
    [parent] = server.open_shards(TABLE)
    [record] = shop.read(shop.iterator(parent))
    number = record["dynamodb"]["SequenceNumber"]
    before = shop.iterator(parent)
    child = server.rotate(parent)
    shop.put("a", 2)
    held = shop.iterator(child, "LATEST")
    [tip] = shop.read(shop.iterator(child))
    behind = shop.iterator(child)
    server.trim()
    assert [s["ShardId"] for s in shop.shards()] == [child]
    assert refused(lambda: shop.iterator(parent)) == "ResourceNotFoundException"
    assert refused(lambda: shop.get(before)) == "TrimmedDataAccessException"
    assert refused(lambda: shop.get(behind)) == "TrimmedDataAccessException"
    after = tip["dynamodb"]["SequenceNumber"]
    for stale in (number, after):
        code = refused(lambda number=stale: shop.iterator(child, "AFTER_SEQUENCE_NUMBER", SequenceNumber=number))  # type: ignore[misc]
        assert code == "TrimmedDataAccessException"
    server.behaviour.trimmed_tip_is_error = False
    shop.put("a", 3)
    assert numbers(shop.read(shop.iterator(child, "AFTER_SEQUENCE_NUMBER", SequenceNumber=after))) == ["3"]
    assert numbers(shop.read(held)) == ["3"]
    assert numbers(shop.read(shop.iterator(child))) == ["3"]


def test_only_what_is_older_than_a_day_is_forgotten(server: WireServer, shop: Shop) -> None:
    shop.put("a", 1)
    server.pass_time(timedelta(hours=20))
    shop.put("a", 2)
    server.pass_time(timedelta(hours=5))
    assert numbers(shop.read(shop.iterator(shop.shards()[0]["ShardId"]))) == ["2"]


# --- Streams


def test_a_stream_that_is_switched_off_and_on_is_another(server: WireServer, shop: Shop) -> None:
    shop.put("a", 1)
    old, [shard] = shop.arn, server.open_shards(TABLE)
    assert refused(lambda: shop.switch("KEYS_ONLY")) == "ResourceInUseException"
    shop.switch(None)
    shop.put("a", 2)
    described = shop.tables.describe_table(TableName=TABLE)["Table"]
    assert described["LatestStreamArn"] == old
    assert "StreamSpecification" not in described
    assert refused(lambda: shop.switch(None)) == "ValidationException"
    assert shop.streams.describe_stream(StreamArn=old)["StreamDescription"]["StreamStatus"] == "DISABLED"
    assert numbers(shop.read(shop.iterator(shard))) == ["1"]
    shop.switch("KEYS_ONLY")
    shop.put("a", 3)
    assert shop.arn != old
    assert shop.tables.describe_table(TableName=TABLE)["Table"]["StreamSpecification"] == {
        "StreamEnabled": True,
        "StreamViewType": "KEYS_ONLY",
    }
    assert numbers(shop.read(shop.iterator(shop.shards()[0]["ShardId"]))) == ["3"]
    listed = shop.streams.list_streams(TableName=TABLE)["Streams"]
    assert {s["StreamArn"] for s in listed} == {old, shop.arn}
    first = shop.streams.list_streams(Limit=1)
    rest = shop.streams.list_streams(ExclusiveStartStreamArn=first["LastEvaluatedStreamArn"])
    assert [*first["Streams"], *rest["Streams"]] == listed
    assert server.recreate_stream(TABLE, "NEW_IMAGE") == shop.arn


def test_a_dropped_table_is_not_found_and_its_stream_is(shop: Shop) -> None:
    arn = shop.arn
    shop.tables.delete_table(TableName=TABLE)
    assert refused(lambda: shop.tables.describe_table(TableName=TABLE)) == "ResourceNotFoundException"
    assert shop.streams.describe_stream(StreamArn=arn)["StreamDescription"]["StreamStatus"] == "DISABLED"
    assert refused(lambda: shop.streams.describe_stream(StreamArn=arn + "9")) == "ResourceNotFoundException"


def test_a_disabled_stream_shows_open_leaves_for_a_while(server: WireServer, shop: Shop) -> None:
    server.behaviour.leaves_shown_open = True
    shop.switch(None)
    [shard] = shop.shards()
    assert "EndingSequenceNumber" not in shard["SequenceNumberRange"]
    assert "NextShardIterator" not in shop.get(shop.iterator(shard["ShardId"]))


# --- Faults


def test_faults_happen_as_often_as_asked(server: WireServer, shop: Shop) -> None:
    server.fail("ListStreams", throttled(), times=2)
    for _ in range(2):
        assert refused(shop.streams.list_streams) == "ThrottlingException"
    shop.streams.list_streams()
    server.fail("*", internal())
    assert refused(shop.streams.list_streams) == "InternalServerError"
    server.deny("ListStreams")
    for _ in range(3):
        assert refused(shop.streams.list_streams) == "AccessDeniedException"
    server.clear_faults()
    shop.streams.list_streams()
    assert server.calls.errors["ListStreams", "AccessDeniedException"] == 3


def test_a_connection_breaks_before_an_answer(server: WireServer, shop: Shop) -> None:
    server.drop("ListStreams")
    with pytest.raises(ConnectionClosedError):
        shop.streams.list_streams()
    shop.streams.list_streams()


def test_boto3_takes_a_broken_answer_for_an_empty_one(server: WireServer, shop: Shop) -> None:
    # Why a provider must look for the fields that an answer always has.
    [shard] = server.open_shards(TABLE)
    shop.put("a")
    iterator = shop.iterator(shard)
    server.drop("GetRecords", in_the_middle=True)
    answer = shop.get(iterator)
    assert "Records" not in answer
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_readers_are_counted_from_their_first_call_to_their_last(server: WireServer, shop: Shop) -> None:
    [shard] = server.open_shards(TABLE)
    first, second, third = (shop.iterator(shard, "LATEST") for _ in range(3))
    shop.get(first)
    shop.get(second)
    shop.get(first)
    shop.get(third)
    assert server.calls.most_readers() == {shard: 2}
    assert server.calls.most_under_way() == {shard: 1}
    server.behaviour.thinking = timedelta(milliseconds=100)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(shop.get, (first, second)))
    assert server.calls.most_under_way() == {shard: 2}
    server.behaviour.readers = 0
    assert refused(lambda: shop.get(third)) == "LimitExceededException"


# --- The model


def test_an_answer_that_the_model_does_not_allow_is_found() -> None:
    check_answer("dynamodbstreams", "ListStreams", {"Streams": []})
    answers: list[dict[str, object]] = [
        {"Stream": []},
        {"Streams": {}},
        {"Streams": [{"StreamArn": "too short"}]},
        {"Streams": [{"TableName": 1}]},
        {"LastEvaluatedStreamArn": None},
    ]
    for wrong in answers:
        with pytest.raises(AssertionError):
            check_answer("dynamodbstreams", "ListStreams", wrong)


def test_an_error_that_an_operation_does_not_have_fails_the_test() -> None:
    server = WireServer()
    server.__enter__()
    server.fail("ListStreams", throttled("ExpiredIteratorException"))
    assert refused(Shop(server.url).streams.list_streams) == "ExpiredIteratorException"
    with pytest.raises(AssertionError, match="never answers"):
        server.__exit__(None, None, None)


def test_a_request_that_this_server_does_not_understand_is_refused(shop: Shop) -> None:
    assert refused(lambda: shop.tables.get_item(TableName=TABLE, Key=key("a"))) == "UnknownOperationException"
    assert (
        refused(
            lambda: shop.tables.put_item(TableName=TABLE, Item=key("a"), ConditionExpression="attribute_exists(pk)")
        )
        == "ValidationException"
    )
    assert refused(lambda: shop.tables.put_item(TableName=TABLE, Item={"pk": {"S": "a"}})) == "ValidationException"
    assert refused(lambda: shop.tables.put_item(TableName="nothing", Item=key("a"))) == "ResourceNotFoundException"
