"""Shard iterators: opaque to callers, and all that the server knows of a reader's place."""

import base64
import json
from typing import NamedTuple

from tests.dynamodb.server.errors import invalid

LIFETIME = 15 * 60.0
"""Seconds that an iterator can be used."""


class ShardIterator(NamedTuple):
    """A place in a shard."""

    arn: str
    shard_id: str
    position: int
    """The sequence number that has been passed."""
    issued: float
    """Epoch seconds by the clock of iterators."""
    reader: int
    """The GetShardIterator that this iterator descends from."""

    def encode(self) -> str:
        """The text on the wire."""
        return f"{self.arn}|1|{base64.b64encode(json.dumps(self[1:]).encode()).decode()}"

    @classmethod
    def decode(cls, text: str) -> "ShardIterator":
        """Read the text. Raises ValidationException."""
        try:
            arn, _, content = text.split("|")
            return cls(arn, *json.loads(base64.b64decode(content, validate=True)))
        except (ValueError, TypeError) as error:
            raise invalid("Invalid ShardIterator") from error
