"""The wire-level server does what it is told, as the unmodified SDK sees it, whose traps are shown here too."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import timedelta

import grpc
import pytest
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import GoogleAPICallError, NotFound, ResourceExhausted, ServiceUnavailable
from google.auth.credentials import AnonymousCredentials
from google.cloud.spanner_v1 import AsyncClient, param_types

from tests.spanner.conftest import CHANGES, MAIN, THINGS
from tests.spanner.sdk import BareDatabase, Record, bare_database, deletion, mutation
from tests.spanner.server import errors
from tests.spanner.server.clock import SECOND, parse, rfc3339
from tests.spanner.server.schema import StreamDefinition, table
from tests.spanner.server.wire import WireServer

KEYS = [{"id": str(number), "text": f"text {number}"} for number in range(40)]


def insert(*rows: dict[str, str]) -> dict[str, object]:
    return mutation("insert_or_update", "things", *rows)


async def read(
    server: WireServer, database: BareDatabase, token: str, *, end: int | None = None, stream: str = "changes"
) -> list[Record]:
    """What a partition says from its beginning up to now, or to an end."""
    start = server.stream(MAIN, stream).partition(token).start
    last = end if end is not None else server.account.clock.tick()
    return await database.query(stream, rfc3339(start), rfc3339(last), token)


def data(records: Sequence[Record]) -> list[Record]:
    return [record["data_change_record"] for record in records if "data_change_record" in record]


def ends(records: Sequence[Record]) -> list[Record]:
    return [record["child_partitions_record"] for record in records if "child_partitions_record" in record]


# --- Partitions


async def test_a_transaction_over_partitions_numbers_its_records_across_them(
    wire_server: WireServer, wire_database: BareDatabase
) -> None:
    parts = wire_server.split(MAIN, "changes", *wire_server.alive(MAIN, "changes"), parts=3)
    wire_server.write(MAIN, insert(*KEYS), tag="a tag")
    found = [data(await read(wire_server, wire_database, token)) for token in parts]
    assert all(found)
    every = [record for records in found for record in records]
    sequences = [record["record_sequence"] for record in every]
    assert len(set(sequences)) == len(sequences) == every[0]["number_of_records_in_transaction"]
    assert {record["number_of_partitions_in_transaction"] for record in every} == {3}
    assert {record["transaction_tag"] for record in every} == {"a tag"}
    for records in found:
        assert [r["record_sequence"] for r in records] == sorted(r["record_sequence"] for r in records)
        last = [record["is_last_record_in_transaction_in_partition"] for record in records]
        assert last == [False] * (len(records) - 1) + [True]


async def test_a_key_is_in_one_partition_at_a_time_through_splits_and_merges(
    wire_server: WireServer, wire_database: BareDatabase
) -> None:
    [first] = wire_server.alive(MAIN, "changes")
    wire_server.write(MAIN, insert(*KEYS))
    left, right = wire_server.split(MAIN, "changes", first)
    wire_server.write(MAIN, insert(*KEYS))
    merged = wire_server.merge(MAIN, "changes", left, right)
    moved = wire_server.move(MAIN, "changes", merged)
    wire_server.write(MAIN, insert(*KEYS))
    for level in ([first], [left, right], [moved]):
        keys = [
            mod["keys"]["id"]
            for token in level
            for record in data(await read(wire_server, wire_database, token))
            for mod in record["mods"]
        ]
        assert sorted(keys, key=int) == [row["id"] for row in KEYS]
    assert data(await read(wire_server, wire_database, merged)) == []


async def test_every_parent_of_a_child_names_it_with_all_of_its_parents(
    wire_server: WireServer, wire_database: BareDatabase
) -> None:
    parents = wire_server.split(MAIN, "changes", *wire_server.alive(MAIN, "changes"), parts=3)
    child = wire_server.merge(MAIN, "changes", *parents)
    said = [ends(await read(wire_server, wire_database, parent)) for parent in parents]
    assert said[0] == said[1] == said[2]
    [[ended]] = said[:1]
    assert ended["child_partitions"] == [{"token": child, "parent_partition_tokens": parents}]


async def test_the_parents_of_an_initial_query_may_be_null(
    wire_server: WireServer, wire_database: BareDatabase
) -> None:
    wire_server.behaviour.null_parents = True
    [record] = await wire_database.query("changes", rfc3339(wire_server.now()))
    assert record["child_partitions_record"]["child_partitions"][0]["parent_partition_tokens"] == [None]


# --- The endings that cost other readers data


async def test_a_bounded_query_can_end_without_its_child_record(
    wire_server: WireServer, wire_database: BareDatabase
) -> None:
    [token] = wire_server.alive(MAIN, "changes")
    wire_server.write(MAIN, insert(*KEYS))
    wire_server.move(MAIN, "changes", token)
    end = wire_server.account.clock.tick()
    wire_server.omit_child_records(MAIN, "changes", token, times=1)
    first, second = [await read(wire_server, wire_database, token, end=end) for _ in range(2)]
    assert data(first) == data(second)
    assert ends(first) == []
    assert len(ends(second)) == 1
    with pytest.raises(GoogleAPICallError, match="invalid for the partition"):
        await wire_database.query("changes", rfc3339(end), None, token)


async def test_an_unbounded_query_can_end_without_a_child_record(
    wire_server: WireServer, wire_database: BareDatabase
) -> None:
    [token] = wire_server.alive(MAIN, "changes")
    start = rfc3339(wire_server.now())
    running = asyncio.create_task(wire_database.query("changes", start, None, token))
    await wire_server.calls.until(lambda calls: calls.readers(token) == 1)
    wire_server.end_queries(MAIN, "changes", token)
    assert await running == []
    assert wire_server.alive(MAIN, "changes") == [token]


# --- Records


async def test_two_transactions_share_a_commit_timestamp(wire_server: WireServer, wire_database: BareDatabase) -> None:
    first = wire_server.write(MAIN, insert(KEYS[0]))
    second = wire_server.write(MAIN, insert(KEYS[1]), at=first.timestamp)
    [token] = wire_server.alive(MAIN, "changes")
    records = data(await read(wire_server, wire_database, token))
    assert [r["server_transaction_id"] for r in records] == [first.transaction_id, second.transaction_id]
    assert len({r["commit_timestamp"] for r in records}) == 1


async def test_commit_timestamps_have_nanoseconds(wire_server: WireServer, wire_database: BareDatabase) -> None:
    wire_server.behaviour.nanoseconds = True
    commit = wire_server.write(MAIN, insert(KEYS[0]))
    [token] = wire_server.alive(MAIN, "changes")
    [record] = data(await read(wire_server, wire_database, token))
    assert record["commit_timestamp"] == rfc3339(commit.timestamp)
    assert commit.timestamp % 1000


async def test_an_expired_row_is_deleted_by_a_system_transaction(
    wire_server: WireServer, wire_database: BareDatabase
) -> None:
    silent = StreamDefinition("silent", None, {"exclude_ttl_deletes": True})
    wire_server.database(MAIN).create_stream(silent)
    wire_server.write(MAIN, insert(KEYS[0]))
    wire_server.expire(MAIN, "things", ["0"])
    [token], [other] = wire_server.alive(MAIN, "changes"), wire_server.alive(MAIN, "silent")
    inserted, expired = data(await read(wire_server, wire_database, token))
    assert (inserted["is_system_transaction"], expired["is_system_transaction"]) == (False, True)
    assert (expired["mod_type"], expired["transaction_tag"]) == ("DELETE", "RowDeletionPolicy")
    assert [r["mod_type"] for r in data(await read(wire_server, wire_database, other, stream="silent"))] == ["INSERT"]


async def test_a_transaction_may_keep_out_of_a_stream_that_allows_it(
    wire_server: WireServer, wire_database: BareDatabase
) -> None:
    wire_server.database(MAIN).create_stream(StreamDefinition("lax", None, {"allow_txn_exclusion": True}))
    wire_server.write_unseen(MAIN, insert(KEYS[0]))
    [token], [lax] = wire_server.alive(MAIN, "changes"), wire_server.alive(MAIN, "lax")
    assert len(data(await read(wire_server, wire_database, token))) == 1
    assert data(await read(wire_server, wire_database, lax, stream="lax")) == []


@pytest.mark.parametrize("every", [1, 7, 300])
async def test_values_cut_into_chunks_are_joined_to_the_same(
    wire_server: WireServer, wire_database: BareDatabase, every: int, postgres: bool
) -> None:
    name = f"chunks-{postgres}".lower()
    wire_server.create_database(name, [THINGS], [CHANGES], postgres=postgres)
    wire_server.write(name, insert(*KEYS))
    wire_server.write(name, deletion("things", ["3"]))
    [token] = wire_server.alive(name, "changes")
    start = rfc3339(wire_server.stream(name, "changes").created)
    end = rfc3339(wire_server.account.clock.tick())
    async with bare_database(wire_server.host, wire_server.path(name), postgres=postgres) as database:
        whole = await database.query("changes", start, end, token)
        wire_server.behaviour.chunk_every = every
        assert await database.query("changes", start, end, token) == whole


async def test_values_are_exact_where_the_emulator_loses_some(
    wire_server: WireServer, wire_database: BareDatabase
) -> None:
    kinds = {"at": "TIMESTAMP", "ratio": "FLOAT64", "exact": "NUMERIC", "numbers": "ARRAY<INT64>", "doc": "JSON"}
    wire_server.database(MAIN).create_table(table("values", "id", id="INT64", **kinds))
    row = {
        "id": str(2**63 - 1), "at": "2024-01-02T04:04:05.123456789+01:00", "ratio": "NaN", "exact": "1.50",
        "numbers": ["1", None], "doc": '{"b": 1.0, "a": [null]}',
    }  # fmt: skip
    wire_server.write(MAIN, mutation("insert", "values", row))
    [token] = wire_server.alive(MAIN, "changes")
    [record] = data(await read(wire_server, wire_database, token))
    [mod] = record["mods"]
    assert mod["keys"] == {"id": "9223372036854775807"}
    assert mod["new_values"] == {
        "at": "2024-01-02T03:04:05.123456789Z", "ratio": "NaN", "exact": "1.5", "numbers": ["1", None],
        "doc": '{"a":[null],"b":1.0}',
    }  # fmt: skip


async def test_a_stream_that_cannot_be_read_by_partitions_says_so(
    wire_server: WireServer, wire_database: BareDatabase
) -> None:
    mutable = StreamDefinition("mutable", None, {"partition_mode": "MUTABLE_KEY_RANGE"})
    wire_server.database(MAIN).create_stream(mutable)
    sql = "SELECT OPTION_NAME, OPTION_VALUE FROM INFORMATION_SCHEMA.CHANGE_STREAM_OPTIONS"
    [row] = await wire_database.rows(sql)
    assert row == {"OPTION_NAME": "partition_mode", "OPTION_VALUE": "MUTABLE_KEY_RANGE"}
    with pytest.raises(GoogleAPICallError, match="MUTABLE_KEY_RANGE"):
        await wire_database.query("mutable", rfc3339(wire_server.now()))


# --- Time


async def test_what_is_trimmed_is_refused_and_what_is_newer_is_not(
    wire_server: WireServer, wire_database: BareDatabase
) -> None:
    [token] = wire_server.alive(MAIN, "changes")
    old, new = [wire_server.write(MAIN, insert(row)).timestamp for row in KEYS[:2]]
    wire_server.trim(MAIN, "changes")
    with pytest.raises(GoogleAPICallError, match="too far in the past"):
        await wire_database.query("changes", rfc3339(old), None, token)
    later = wire_server.write(MAIN, insert(KEYS[2])).timestamp
    assert later - new > timedelta(days=6) // timedelta(microseconds=1) * 1000
    records = data(await wire_database.query("changes", rfc3339(new), rfc3339(later), token))
    assert [record["commit_timestamp"] for record in records] == [rfc3339(later)]


async def test_an_idle_partition_says_heartbeats_and_no_commit_is_earlier_than_one(
    wire_server: WireServer, wire_database: BareDatabase
) -> None:
    [token] = wire_server.alive(MAIN, "changes")
    running = wire_database.records("changes", rfc3339(wire_server.now()), None, token, heartbeat=100)
    beats = [(await anext(running))["heartbeat_record"]["timestamp"] for _ in range(3)]
    assert beats == sorted(set(beats))
    commit = wire_server.write(MAIN, insert(KEYS[0]))
    assert rfc3339(commit.timestamp) > beats[-1]
    while "heartbeat_record" in (record := await anext(running)):
        pass
    assert record["data_change_record"]["commit_timestamp"] == rfc3339(commit.timestamp)
    await running.aclose()


async def test_a_query_that_loses_what_it_has_not_read_yet_is_refused(
    wire_server: WireServer, wire_database: BareDatabase
) -> None:
    wire_server.behaviour.records_per_message = 1
    [token] = wire_server.alive(MAIN, "changes")
    start = rfc3339(wire_server.stream(MAIN, "changes").created)
    for row in KEYS[:3]:
        wire_server.write(MAIN, insert(row))
    wire_server.stall("Partition", after_messages=1)
    running = wire_database.records("changes", start, None, token)
    assert "data_change_record" in await anext(running)
    wire_server.trim(MAIN, "changes")
    wire_server.clear_faults()
    with pytest.raises(GoogleAPICallError, match="too far in the past"):
        await anext(running)


async def test_a_partition_that_ended_before_retention_may_have_a_text_of_its_own(
    wire_server: WireServer, wire_database: BareDatabase
) -> None:
    [token] = wire_server.alive(MAIN, "changes")
    wire_server.move(MAIN, "changes", token)
    wire_server.write(MAIN, insert(KEYS[0]))
    wire_server.trim(MAIN, "changes")
    for own, text in ((False, "invalid for the partition"), (True, "This partition is no longer valid")):
        wire_server.behaviour.aged_out_text = own
        with pytest.raises(GoogleAPICallError, match=text):
            await wire_database.query("changes", rfc3339(wire_server.now()), None, token)


async def test_a_refusal_may_keep_the_bounds_of_a_start_to_itself(
    wire_server: WireServer, wire_database: BareDatabase
) -> None:
    wire_server.behaviour.bounds_told = False
    with pytest.raises(GoogleAPICallError) as caught:
        await wire_database.query("changes", "2000-01-01T00:00:00Z")
    assert "too far in the past. Received" in str(caught.value)


async def test_a_bounded_query_may_end_without_a_heartbeat(
    wire_server: WireServer, wire_database: BareDatabase
) -> None:
    [token] = wire_server.alive(MAIN, "changes")
    assert [*map(list, await read(wire_server, wire_database, token))] == [["heartbeat_record"]]
    wire_server.behaviour.idle_heartbeat = False
    assert await read(wire_server, wire_database, token) == []


async def test_heartbeats_may_come_later_than_they_were_asked_for(
    wire_server: WireServer, wire_database: BareDatabase
) -> None:
    [token] = wire_server.alive(MAIN, "changes")
    wire_server.behaviour.heartbeat_slowdown = 1000
    running = wire_database.records("changes", rfc3339(wire_server.now()), None, token, heartbeat=100)
    first = asyncio.ensure_future(anext(running))
    await wire_server.calls.until(lambda calls: calls.readers(token) == 1)
    wire_server.pass_time(timedelta(seconds=50))
    wire_server.pass_time(timedelta(seconds=51))
    said = (await first)["heartbeat_record"]["timestamp"]
    assert parse(said) - wire_server.stream(MAIN, "changes").created > 100 * SECOND
    await running.aclose()


# --- Faults


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.throttled(), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.unavailable(), grpc.StatusCode.UNAVAILABLE),
        (errors.aborted(), grpc.StatusCode.ABORTED),
        (errors.access_denied(MAIN), grpc.StatusCode.PERMISSION_DENIED),
        (errors.unauthenticated(), grpc.StatusCode.UNAUTHENTICATED),
    ],
)
async def test_a_call_fails_as_often_as_it_is_told_to(
    wire_server: WireServer, wire_database: BareDatabase, error: errors.ServiceError, code: grpc.StatusCode
) -> None:
    wire_server.fail("Initial", error, times=2)
    for _ in range(2):
        with pytest.raises(GoogleAPICallError) as caught:
            await wire_database.query("changes", rfc3339(wire_server.now()))
        assert caught.value.grpc_status_code == code
    assert len(await wire_database.query("changes", rfc3339(wire_server.now()))) == 1
    assert wire_server.calls.errors["Initial", code.name] == 2


async def test_a_stream_of_answers_breaks_in_the_middle_of_a_record(
    wire_server: WireServer, wire_database: BareDatabase
) -> None:
    wire_server.write(MAIN, insert(*KEYS))
    [token] = wire_server.alive(MAIN, "changes")
    wire_server.behaviour.chunk_every = 50
    wire_server.fail("Partition", errors.unavailable(), after_messages=2)
    with pytest.raises(ServiceUnavailable):
        await read(wire_server, wire_database, token)
    assert len(data(await read(wire_server, wire_database, token))) == 1


async def test_one_reader_more_than_allowed_is_refused(wire_server: WireServer, wire_database: BareDatabase) -> None:
    wire_server.behaviour.readers = 2
    [token] = wire_server.alive(MAIN, "changes")
    start = rfc3339(wire_server.now())
    running = [asyncio.create_task(wire_database.query("changes", start, None, token)) for _ in range(2)]
    await wire_server.calls.until(lambda calls: calls.readers(token) == 2)
    with pytest.raises(ResourceExhausted):
        await wire_database.query("changes", start, None, token)
    wire_server.move(MAIN, "changes", token)
    assert [len(ends(records)) for records in await asyncio.gather(*running)] == [1, 1]
    assert wire_server.calls.most_readers()[token] == 3
    assert wire_server.calls.readers(token) == 0


async def test_it_goes_down_and_comes_up_with_what_it_had(wire_server: WireServer, wire_database: BareDatabase) -> None:
    wire_server.write(MAIN, insert(*KEYS))
    [token] = wire_server.alive(MAIN, "changes")
    await wire_server.down()
    with pytest.raises(ServiceUnavailable):
        await read(wire_server, wire_database, token)
    await wire_server.up()
    async with bare_database(wire_server.host, wire_server.path(MAIN), postgres=False) as again:
        assert len(data(await read(wire_server, again, token))) == 1


async def test_a_function_in_a_larger_statement_is_refused(wire_database: BareDatabase) -> None:
    with pytest.raises(GoogleAPICallError, match="Change stream TVF must not be combined"):
        await wire_database.rows("SELECT 1 FROM READ_changes(NULL, NULL, NULL, 1000) JOIN things")


# --- Traps of the SDK


class HighLevel:
    """The SDK's own way of reading a change stream: a snapshot, and rows that it has decoded."""

    def __init__(self, server: WireServer) -> None:
        self._server = server
        self._client = AsyncClient(
            project=server.project,
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options=ClientOptions(api_endpoint=server.host),
        )

    async def rows(self, token: str) -> AsyncGenerator[list[object], None]:
        """The rows of a partition's query, from its beginning on."""
        instance = self._client.instance(self._server.instance)  # type: ignore[no-untyped-call]
        database = await instance.database(MAIN)
        start = rfc3339(self._server.stream(MAIN, "changes").partition(token).start)
        async with database.snapshot() as snapshot:
            rows = await snapshot.execute_sql(
                "SELECT ChangeRecord FROM READ_changes(@start, NULL, @token, 300000)",
                params={"start": start, "token": token},
                param_types={"start": param_types.TIMESTAMP, "token": param_types.STRING},
            )
            async for row in rows:
                yield row


@pytest.fixture
def high_level(wire_server: WireServer, monkeypatch: pytest.MonkeyPatch) -> HighLevel:
    # The variable would win over what the client is given.
    monkeypatch.delenv("SPANNER_EMULATOR_HOST", raising=False)
    return HighLevel(wire_server)


async def test_the_high_level_iterator_holds_back_what_has_no_resume_token(
    wire_server: WireServer, wire_database: BareDatabase, high_level: HighLevel
) -> None:
    [token] = wire_server.alive(MAIN, "changes")
    start = rfc3339(wire_server.now())
    wire_server.behaviour.resume_tokens = False
    async with aclosing(high_level.rows(token)) as rows:
        first = asyncio.ensure_future(anext(rows))
        raw = wire_database.records("changes", start, None, token, heartbeat=300_000)
        bare = asyncio.ensure_future(anext(raw))
        await wire_server.calls.until(lambda calls: calls.readers(token) == 2)
        commits = []
        for row in KEYS[:20]:
            commits.append(wire_server.write(MAIN, insert(row)))
            # The bare call has it at once.
            assert (await bare)["data_change_record"]["commit_timestamp"] == rfc3339(commits[-1].timestamp)
            bare = asyncio.ensure_future(anext(raw))
        assert not first.done()
        wire_server.behaviour.resume_tokens = True
        commits.append(wire_server.write(MAIN, insert(KEYS[20])))
        await bare
        found = [await first, *[await anext(rows) for _ in commits[1:]]]
        assert len(found) == len(commits)
        await raw.aclose()


async def test_the_high_level_iterator_tries_an_unavailable_service_again_without_end(
    wire_server: WireServer, high_level: HighLevel
) -> None:
    [token] = wire_server.alive(MAIN, "changes")
    wire_server.write(MAIN, insert(KEYS[0]))
    wire_server.fail("Partition", errors.unavailable(), times=300)
    async with aclosing(high_level.rows(token)) as rows:
        assert len(await anext(rows)) == 1
    assert wire_server.calls.count("Partition") == 301


async def test_a_bare_call_that_is_closed_ends_its_query(wire_server: WireServer, wire_database: BareDatabase) -> None:
    [token] = wire_server.alive(MAIN, "changes")
    wire_server.write(MAIN, insert(KEYS[0]))
    start = rfc3339(wire_server.stream(MAIN, "changes").created)
    running = wire_database.records("changes", start, None, token)
    assert "data_change_record" in await anext(running)
    assert wire_server.calls.readers(token) == 1
    await running.aclose()
    await wire_server.calls.until(lambda calls: calls.readers(token) == 0)


async def test_not_found_makes_the_high_level_client_ask_for_its_session(
    wire_server: WireServer, high_level: HighLevel
) -> None:
    [token] = wire_server.alive(MAIN, "changes")
    wire_server.write(MAIN, insert(KEYS[0]))
    async with aclosing(high_level.rows(token)) as rows:
        await anext(rows)
        wire_server.drop_stream(MAIN, "changes")
        with pytest.raises(NotFound, match="Change Stream not found: changes"):
            await anext(rows)
    assert wire_server.calls.count("GetSession") == 1
