"""The operations of `DynamoDBStreams_20120810`, over an account."""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from tests.dynamodb.server.account import Account
from tests.dynamodb.server.errors import ServiceError, expired_iterator, invalid, trimmed
from tests.dynamodb.server.iterators import LIFETIME, ShardIterator
from tests.dynamodb.server.shard import Record, Shard

Request = Mapping[str, Any]
Answer = dict[str, Any]

PAGE_OF_SHARDS = 100
PAGE_OF_RECORDS = 1000


class StreamApi:
    """One request after another."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.empty_pages: Counter[str] = Counter()
        """How many answers to come are empty, by shard."""
        self.iterators_since = 0.0
        """Iterators that were issued earlier have expired."""
        self._readers = itertools.count(1)

    def operations(self) -> dict[str, Callable[[Request], Answer | bytes]]:
        """Name of each operation to what carries it out."""
        return {
            "DescribeStream": self._describe_stream,
            "GetRecords": self._get_records,
            "GetShardIterator": self._get_shard_iterator,
            "ListStreams": self._list_streams,
        }

    def _list_streams(self, request: Request) -> Answer:
        table, start = request.get("TableName"), request.get("ExclusiveStartStreamArn", "")
        limit = min(request.get("Limit", 100), 100)
        arns = sorted(arn for arn, s in self.account.streams.items() if table in (None, s.table) and arn > start)
        shown = [self.account.streams[arn] for arn in arns[:limit]]
        answer: Answer = {
            "Streams": [{"StreamArn": s.arn, "TableName": s.table, "StreamLabel": s.label} for s in shown]
        }
        if len(arns) > limit:
            answer["LastEvaluatedStreamArn"] = arns[limit - 1]
        return answer

    def _describe_stream(self, request: Request) -> Answer:
        stream = self.account.stream(request["StreamArn"])
        limit = request.get("Limit", PAGE_OF_SHARDS)
        if limit > PAGE_OF_SHARDS:
            raise invalid(f"Limit is at most {PAGE_OF_SHARDS}")
        shards, more = stream.listing_page(request.get("ExclusiveStartShardId"), limit)
        description = stream.describe() | {"Shards": list(shards)}
        if more:
            description["LastEvaluatedShardId"] = shards[-1]["ShardId"]
        if self.account.behaviour.shard_filter and (wanted := request.get("ShardFilter")):
            description["Shards"] = [s for s in shards if s.get("ParentShardId") == wanted["ShardId"]]
        return {"StreamDescription": description}

    def _get_shard_iterator(self, request: Request) -> Answer:
        stream = self.account.stream(request["StreamArn"])
        shard = stream.shard(request["ShardId"])
        position = self._position(shard, request)
        return {"ShardIterator": self._iterator(stream.arn, shard.shard_id, position, next(self._readers))}

    def _position(self, shard: Shard, request: Request) -> int:
        match request["ShardIteratorType"]:
            case "TRIM_HORIZON":
                return shard.before_first
            case "LATEST":
                return shard.tip
            case "AT_TIMESTAMP" if self.account.behaviour.at_timestamp:
                return self._position_at(shard, request)
            case "AT_SEQUENCE_NUMBER" | "AFTER_SEQUENCE_NUMBER" as kind:
                if not request.get("SequenceNumber", "").isdecimal():
                    raise invalid("Invalid SequenceNumber.")
                sequence = int(request["SequenceNumber"]) - (kind == "AT_SEQUENCE_NUMBER")
                strict = self.account.behaviour.trimmed_tip_is_error and kind == "AFTER_SEQUENCE_NUMBER"
                return shard.position_of(sequence, trimmed_tip_is_error=strict)
            case _:
                raise invalid("Invalid ShardIteratorType.")

    def _position_at(self, shard: Shard, request: Request) -> int:
        if "Timestamp" not in request:
            raise invalid("Timestamp is required for AT_TIMESTAMP.")
        if request["Timestamp"] > self.account.clock.now():
            raise invalid("Timestamp cannot be in the future.")
        return shard.position_at(request["Timestamp"], exact=self.account.behaviour.exact_times)

    def _get_records(self, request: Request) -> bytes:
        iterator = ShardIterator.decode(request["ShardIterator"])
        limit = request.get("Limit", PAGE_OF_RECORDS)
        if limit > PAGE_OF_RECORDS:
            raise ServiceError("LimitExceededException", f"Limit is at most {PAGE_OF_RECORDS}")
        age = self.account.clock.iterator_time() - iterator.issued
        if age > LIFETIME or iterator.issued < self.iterators_since:
            raise expired_iterator()
        shard = self.account.stream(iterator.arn).shards.get(iterator.shard_id)
        if shard is None:
            raise trimmed()
        return self._page(iterator, shard, limit)

    def _page(self, iterator: ShardIterator, shard: Shard, limit: int) -> bytes:
        records: list[Record] = []
        if self.empty_pages[shard.shard_id]:
            self.empty_pages[shard.shard_id] -= 1
            finished = False
        else:
            records = shard.after(iterator.position, limit)
            finished = shard.finished(records[-1].sequence if records else iterator.position)
        position = records[-1].sequence if records else iterator.position
        following = None
        if not finished or (records and not self.account.behaviour.end_with_last_record):
            following = self._iterator(iterator.arn, shard.shard_id, position, iterator.reader)
        return _encoded(records, following)

    def _iterator(self, arn: str, shard_id: str, position: int, reader: int) -> str:
        return ShardIterator(arn, shard_id, position, self.account.clock.iterator_time(), reader).encode()


def _encoded(records: list[Record], following: str | None) -> bytes:
    """The answer, of records that have been encoded, and held against the model, when they were made."""
    end = b"]}" if following is None else b'],"NextShardIterator":' + json.dumps(following).encode() + b"}"
    return b'{"Records":[' + b",".join([record.body for record in records]) + end
