"""What a listing of partition key ranges makes of an interval."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from changefeed_gateway.core.model import PartitionState
from changefeed_gateway.providers.cosmos.cursor import Interval
from changefeed_gateway.providers.cosmos.ranges import Listing, listing_of

EDGES = st.sets(st.integers(1, 254), max_size=12).map(
    lambda found: ["", *(f"{edge:02X}" for edge in sorted(found)), "FF"]
)


def described(edges: list[str]) -> Listing:
    """Ranges between edges; each has the one before it in its ancestry."""
    return listing_of(
        {"id": str(number + 10), "minInclusive": low, "maxExclusive": high, "parents": ["1", str(number)]}
        for number, (low, high) in enumerate(pairwise(edges))
    )


@given(EDGES, st.integers(0, 253), st.integers(1, 254))
def test_parts_cover_an_interval_exactly(edges: list[str], one: int, other: int) -> None:
    interval = Interval(f"{min(one, other):02X}", f"{max(one, other) + 1:02X}")
    parts = described(edges).parts_of(interval)
    assert parts[0].interval.low == interval.low
    assert parts[-1].interval.high == interval.high
    assert all(left.interval.high == right.interval.low for left, right in pairwise(parts))
    assert len({part.partition_id for part in parts}) == len(parts)


@given(EDGES)
def test_a_whole_range_keeps_its_id_and_a_part_says_what_it_is(edges: list[str]) -> None:
    listing = described(edges)
    for found in listing.ranges:
        assert [part.partition_id for part in listing.parts_of(found.interval)] == [found.range_id]
        assert listing.interval_of(found.range_id) == found.interval
    for part in listing.parts_of(Interval("80", "C1")):
        assert listing.interval_of(part.partition_id) == part.interval


def test_ranges_that_do_not_cover_an_interval_make_nothing_of_it() -> None:
    gap = listing_of(
        [
            {"id": "1", "minInclusive": "", "maxExclusive": "40"},
            {"id": "2", "minInclusive": "80", "maxExclusive": "FF"},
        ]
    )
    assert gap.parts_of(Interval("", "FF")) == []
    assert len(gap.parts_of(Interval("", "20"))) == 1
    overlap = listing_of(
        [
            {"id": "1", "minInclusive": "", "maxExclusive": "FF"},
            {"id": "2", "minInclusive": "", "maxExclusive": "80", "parents": ["1"]},
        ]
    )
    assert overlap.parts_of(Interval("", "FF")) == []


def test_ancestors_are_listed_as_retired_before_those_that_have_their_changes() -> None:
    partitions = described(["", "80", "FF"]).partitions()
    assert [(each.partition_id, each.state) for each in partitions] == [
        ("0", PartitionState.RETIRED),
        ("1", PartitionState.RETIRED),
        ("10", PartitionState.ACTIVE),
        ("11", PartitionState.ACTIVE),
    ]
    assert partitions[-1].parents == ("1", "1")


def test_what_is_no_partition_is_unknown() -> None:
    listing = described(["", "80", "FF"])
    for name in ("", "99", "99:00-40", "10:40-00", "10:xx-yy", "../etc"):
        assert listing.interval_of(name) is None
        assert not listing.descendants_of(name)
