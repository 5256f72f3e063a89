"""Wire records parse to exactly the message that ordinary construction gives."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from changefeed.v1 import change_event_pb2, read_changes_pb2, resource_pb2, subscribe_pb2
from changefeed_gateway.api.wire.records import encode_changes, varint
from changefeed_gateway.core.answer import ChangeEncoder
from changefeed_gateway.core.columns import Columns
from changefeed_gateway.core.model import (
    Address,
    Change,
    ChangeType,
    Feed,
    ItemState,
    Key,
    KeyComponent,
    KeyType,
    Origin,
    PartitionId,
)

ENCODER: ChangeEncoder = encode_changes

FEED = Feed(
    address=Address(connection="main", database="größe", collection="public.orders"),
    provider_id="postgres",
    incarnation="1",
    capabilities=(),
    item_state=ItemState.INCLUDED,
    single_order=True,
)

TEXTS = st.text(max_size=40)
# Few names, so that changes in a row often have keys of the same shape and often not.
NAMES = st.sampled_from(["id", "tenant", "größe", ""])
COMPONENTS = st.builds(KeyComponent, NAMES, TEXTS, st.sampled_from(KeyType))
KEYS = st.builds(Key, TEXTS, st.lists(COMPONENTS, max_size=3).map(tuple), st.just("") | TEXTS)
# The usual key of a table, whose only value is its partition key.
TABLE_KEYS = st.builds(
    lambda text, name, kind: Key(text, (KeyComponent(name, text, kind),)), TEXTS, NAMES, st.sampled_from(KeyType)
)
TIMES = st.none() | st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC) | st.timezones())


def changes_of(keys: st.SearchStrategy[Key], times: st.SearchStrategy[datetime | None]) -> st.SearchStrategy[Change]:
    return st.builds(
        Change,
        event_id=TEXTS,
        change_type=st.sampled_from(ChangeType),
        key=keys,
        item_state=st.sampled_from(ItemState),
        item=st.none() | TEXTS,
        commit_time=times,
        partition_id=st.sampled_from(["", "0-127", "128-255"]).map(PartitionId),
        sequence=TEXTS,
        origin=st.sampled_from(Origin),
        annotations=st.just("") | TEXTS,
    )


CHANGES = changes_of(KEYS | TABLE_KEYS, TIMES)
# Of which many are alike, as those of one table and of one transaction are.
ALIKE = changes_of(
    st.text(max_size=9).map(lambda text: Key(text, (KeyComponent("id", text, KeyType.NUMBER),))),
    st.sampled_from([datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 0, 7, tzinfo=UTC)]),
)
PAGES = st.lists(CHANGES, max_size=8) | st.lists(ALIKE, max_size=8)


def ordinary(change: Change, *, items: bool = True) -> change_event_pb2.ChangeEvent:
    """The event as it is built without any haste."""
    omitted = not items and change.change_type in (ChangeType.CREATE, ChangeType.UPDATE, ChangeType.SNAPSHOT)
    state = ItemState.OMITTED if omitted else change.item_state
    event = change_event_pb2.ChangeEvent(
        event_id=change.event_id,
        change_type=f"CHANGE_TYPE_{change.change_type.name}",
        key=change_event_pb2.Key(
            partition_key=change.key.partition_key,
            sort_key=change.key.sort_key,
            components=[
                change_event_pb2.KeyComponent(name=c.name, value=c.value, type=f"KEY_TYPE_{c.type.name}")
                for c in change.key.components
            ],
        ),
        item_state=f"ITEM_STATE_{state.name}",
        new_item_json=change.item if items else None,
        partition_id=change.partition_id,
        sequence=change.sequence,
        origin=f"ORIGIN_{change.origin.name}",
        address=resource_pb2.ResourceAddress(
            connection=FEED.address.connection, database=FEED.address.database, collection=FEED.address.collection
        ),
        provider=FEED.provider_id,
        annotations_json=change.annotations,
    )
    if change.commit_time is not None:
        event.commit_timestamp.FromDatetime(change.commit_time)
    return event


def parsed(records: Sequence[bytes]) -> list[change_event_pb2.ChangeEvent]:
    page = read_changes_pb2.ReadChangesResponse.FromString(b"".join(records))
    batch = subscribe_pb2.ChangeBatch.FromString(b"".join(records))
    assert page.events == batch.events
    return list(page.events)


@given(PAGES, st.booleans())
def test_records_equal_ordinary_construction(changes: list[Change], items: bool) -> None:
    records = ENCODER(FEED, changes, items=items)
    assert len(records) == len(changes)
    for record, change in zip(records, changes, strict=True):
        assert parsed([record]) == [ordinary(change, items=items)]
    assert parsed(records) == [ordinary(change, items=items) for change in changes]


def as_protobuf_writes(change: Change, *, items: bool) -> bytes:
    """The record, with what the feed decides behind the rest."""
    event = ordinary(change, items=items)
    of_feed = change_event_pb2.ChangeEvent(address=event.address, provider=event.provider)
    event.ClearField("address")
    event.ClearField("provider")
    encoded = event.SerializeToString() + of_feed.SerializeToString()
    return b"\x0a" + varint(len(encoded)) + encoded


@given(PAGES, st.booleans(), st.data())
def test_columns_and_single_changes_give_the_same_bytes(
    changes: list[Change], items: bool, data: st.DataObject
) -> None:
    expected = [as_protobuf_writes(change, items=items) for change in changes]
    columns = Columns.of(changes)
    assert ENCODER(FEED, changes, items=items) == expected
    assert ENCODER(FEED, columns, items=items) == expected
    assert ENCODER(FEED, list(columns), items=items) == expected
    low, high = sorted((data.draw(st.integers(0, len(changes))), data.draw(st.integers(0, len(changes)))))
    parts = [columns[:low], changes[low:high], columns[high:]]
    assert ENCODER(FEED, Columns.joined(parts), items=items) == expected
    chosen = data.draw(st.lists(st.integers(0, len(changes) - 1))) if changes else []
    assert ENCODER(FEED, columns.chosen(chosen), items=items) == [expected[index] for index in chosen]


def change(**fields: Any) -> Change:
    usual = Change(
        event_id="ab12cd34-1",
        change_type=ChangeType.UPDATE,
        key=Key("7", (KeyComponent("id", "7", KeyType.NUMBER),)),
        item_state=ItemState.INCLUDED,
        item='{"id":7}',
        commit_time=datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC),
        partition_id=PartitionId("0-255"),
        sequence="1",
    )
    return usual._replace(**fields)


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 16_000, 16_383, 16_384, 70_000, 3_000_000])
def test_records_of_any_length(size: int) -> None:
    changes = [change(item="ü" * (size // 2) + "x" * (size % 2)), change()]
    assert parsed(encode_changes(FEED, changes, items=True)) == [ordinary(each) for each in changes]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 254, 255, 256, 257, 16_383, 16_384])
def test_texts_of_any_length_in_every_field(size: int) -> None:
    text = "x" * size
    key = Key(text, (KeyComponent(text, text), KeyComponent("id", text, KeyType.NUMBER)), text)
    told = {"event_id": text, "sequence": text, "partition_id": PartitionId(text), "annotations": text}
    changes = [change(), change(key=key, **told), change(key=Key(text, (KeyComponent("id", text),)))]
    for page in (changes, changes[1:2], changes[2:]):
        assert encode_changes(FEED, page, items=True) == [as_protobuf_writes(each, items=True) for each in page]


def test_records_around_the_length_that_needs_a_longer_number() -> None:
    changes = [change(item="x" * size) for size in range(16_200, 16_400)]
    records = encode_changes(FEED, changes, items=True)
    # Events of 16 383 and 16 384 bytes, with lengths of two and three bytes.
    assert {1 + 2 + 16_383, 1 + 3 + 16_384} <= {len(record) for record in records}
    assert parsed(records) == [ordinary(each) for each in changes]


@pytest.mark.parametrize(
    "time",
    [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    ],
)
def test_commit_times_are_exact(time: datetime) -> None:
    [event] = parsed(encode_changes(FEED, [change(commit_time=time)], items=True))
    since = time - datetime(1970, 1, 1, tzinfo=UTC)
    expected = Timestamp(seconds=since // timedelta(seconds=1), nanos=since.microseconds * 1_000)
    assert event.HasField("commit_timestamp")
    assert event.commit_timestamp == expected


def test_nothing_of_one_change_stays_in_the_next() -> None:
    full = change(
        key=Key("k", (KeyComponent("a", "1"), KeyComponent("b", "2")), "s"), origin=Origin.EXPIRY, annotations="{}"
    )
    bare = change(
        event_id="",
        change_type=ChangeType.TRUNCATE,
        key=Key("", ()),
        item_state=ItemState.NOT_APPLICABLE,
        item=None,
        commit_time=None,
        partition_id=PartitionId(""),
        sequence="",
    )
    changes = [full, bare, full, bare, bare, full]
    assert parsed(encode_changes(FEED, changes, items=True)) == [ordinary(each) for each in changes]


@pytest.mark.parametrize("state", ItemState)
@pytest.mark.parametrize("change_type", ChangeType)
def test_left_out_items_say_omitted_unless_there_was_none(change_type: ChangeType, state: ItemState) -> None:
    [event] = parsed(encode_changes(FEED, [change(change_type=change_type, item_state=state)], items=False))
    assert event.new_item_json == ""
    if change_type in (ChangeType.CREATE, ChangeType.UPDATE, ChangeType.SNAPSHOT):
        assert event.item_state == change_event_pb2.ITEM_STATE_OMITTED
    else:
        assert change_event_pb2.ItemState.Name(event.item_state) == f"ITEM_STATE_{state.name}"


def test_naive_commit_time_is_refused() -> None:
    with pytest.raises(TypeError):
        encode_changes(FEED, [change(commit_time=datetime(2026, 1, 1))], items=True)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 16_383, 16_384, 2**31, 2**62])
def test_varint_is_what_protobuf_writes(number: int) -> None:
    event = subscribe_pb2.SubscribeResponse(delivery_sequence=number)
    assert event.SerializeToString() == (b"\x38" + varint(number) if number else b"")


def test_events_have_one_field_number_everywhere() -> None:
    for message in (read_changes_pb2.ReadChangesResponse, subscribe_pb2.ChangeBatch):
        assert message.DESCRIPTOR.fields_by_name["events"].number == 1
