"""Requests and answers held against the SDK's own model of the service."""

import base64
import binascii
from collections.abc import Iterator
from functools import cache
from typing import Any

import botocore.session
from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StructureShape

from tests.dynamodb.server.errors import UNMODELLED, ServiceError, invalid

TARGETS = {"DynamoDB_20120810": "dynamodb", "DynamoDBStreams_20120810": "dynamodbstreams"}
"""The first half of `X-Amz-Target`, and the SDK's name of the service."""

_KINDS: dict[str, type | tuple[type, ...]] = {
    "boolean": bool,
    "double": (int, float),
    "float": (int, float),
    "integer": int,
    "long": int,
    "string": str,
    "timestamp": (int, float),
}


@cache
def service_model(service: str) -> ServiceModel:
    """The model that the SDK itself loads."""
    return botocore.session.get_session().get_service_model(service)


@cache
def operation_model(service: str, operation: str) -> OperationModel:
    """One operation. Raises OperationNotFoundError for one that the service does not have."""
    return service_model(service).operation_model(operation)


def check_request(service: str, operation: str, request: object) -> None:
    """Raise ValidationException, as the service does, for a request that its model does not allow."""
    shape = operation_model(service, operation).input_shape
    assert shape is not None
    problems = list(_problems(shape, request, operation))
    if problems:
        raise invalid(f"{len(problems)} validation errors detected: {'; '.join(problems)}")


def check_answer(service: str, operation: str, answer: object) -> None:
    """Raise AssertionError for an answer that the service could not have given."""
    shape = operation_model(service, operation).output_shape
    assert shape is not None
    problems = list(_problems(shape, answer, operation))
    assert not problems, problems


def check_record(record: object) -> None:
    """The same for one record of a stream."""
    problems = list(_problems(_record_shape(), record, "Record"))
    assert not problems, problems


def check_error(service: str, operation: str, error: ServiceError) -> None:
    """Raise AssertionError for an error that neither the operation's model nor the documentation names."""
    known = {shape.name for shape in operation_model(service, operation).error_shapes} | UNMODELLED
    assert error.code in known, f"{operation} never answers {error.code}"


@cache
def _record_shape() -> Shape:
    # Kept, because a shape works out its members once.
    return service_model("dynamodbstreams").shape_for("Record")


def _problems(shape: Shape, value: Any, where: str) -> Iterator[str]:
    match shape:
        case StructureShape():
            yield from _structure_problems(shape, value, where)
        case ListShape():
            yield from _list_problems(shape, value, where)
        case MapShape():
            yield from _map_problems(shape, value, where)
        case _:
            yield from _scalar_problems(shape, value, where)


def _structure_problems(shape: StructureShape, value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where} is no structure"
        return
    yield from (f"{where}.{name} is unknown" for name in value.keys() - shape.members.keys())
    yield from (f"{where}.{name} is missing" for name in shape.required_members if name not in value)
    if shape.name == "AttributeValue" and len(value) != 1:
        yield f"{where} has {len(value)} types"
    for name, member in shape.members.items():
        if name in value:
            yield from _problems(member, value[name], f"{where}.{name}")


def _list_problems(shape: ListShape, value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{where} is no list"
        return
    yield from _size_problems(shape, len(value), where)
    for number, member in enumerate(value):
        yield from _problems(shape.member, member, f"{where}[{number}]")


def _map_problems(shape: MapShape, value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where} is no map"
        return
    for key, member in value.items():
        yield from _problems(shape.key, key, f"{where}'s key")
        yield from _problems(shape.value, member, f"{where}.{key}")


def _scalar_problems(shape: Shape, value: Any, where: str) -> Iterator[str]:
    if shape.type_name == "blob":
        yield from _blob_problems(value, where)
        return
    kinds = _KINDS[shape.type_name]
    if not isinstance(value, kinds) or (isinstance(value, bool) and shape.type_name != "boolean"):
        yield f"{where} is no {shape.type_name}"
    elif isinstance(value, str):
        yield from _size_problems(shape, len(value), where)
        if (allowed := shape.metadata.get("enum")) and value not in allowed:
            yield f"{where} is none of {', '.join(allowed)}"
    elif isinstance(value, int):
        yield from _size_problems(shape, value, where)


def _size_problems(shape: Shape, size: int, where: str) -> Iterator[str]:
    if not shape.metadata.get("min", size) <= size <= shape.metadata.get("max", size):
        yield f"{where} is out of bounds"


def _blob_problems(value: Any, where: str) -> Iterator[str]:
    try:
        base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        yield f"{where} is no base64"
