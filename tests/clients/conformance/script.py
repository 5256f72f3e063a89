"""What a scripted gateway says, from a scenario's data."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf import json_format

from changefeed.v1.subscribe_pb2 import SubscribeResponse
from tests.clients.scripted_gateway import Raw, Refusal, Silence, Step

Json = dict[str, Any]


def script(steps: Sequence[Json]) -> list[Step]:
    """The steps of one stream."""
    return [_step(step) for step in steps]


def _step(step: Json) -> Step:
    match step:
        case {"say": message, **more}:
            return json_format.ParseDict({**message, **more}, SubscribeResponse())
        case {"raw": text}:
            return SubscribeResponse.FromString(bytes.fromhex(text))
        case {"details": text, "code": code}:
            return Raw(grpc.StatusCode[code], bytes.fromhex(text))
        case {"silence": True}:
            return Silence()
        case {"refuse": refusal}:
            return _refusal(dict(refusal))
        case _:
            raise AssertionError(f"no step of a script: {step}")


def _refusal(refusal: Json) -> Refusal:
    code = grpc.StatusCode[refusal.pop("code")]
    pause = refusal.pop("retry_after_ms", None)
    return Refusal(code=code, retry_after=None if pause is None else timedelta(milliseconds=pause), **refusal)
