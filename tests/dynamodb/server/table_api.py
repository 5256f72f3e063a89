"""The operations of `DynamoDB_20120810` that the tests need, over an account."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.dynamodb.server.account import Account
from tests.dynamodb.server.attributes import Item
from tests.dynamodb.server.errors import invalid

Request = Mapping[str, Any]
Answer = dict[str, Any]

PARAMETERS = {
    "CreateTable": {
        "TableName",
        "KeySchema",
        "AttributeDefinitions",
        "BillingMode",
        "ProvisionedThroughput",
        "StreamSpecification",
    },
    "DeleteItem": {"TableName", "Key"},
    "DeleteTable": {"TableName"},
    "DescribeTable": {"TableName"},
    "PutItem": {"TableName", "Item"},
    "Scan": {"TableName", "ConsistentRead", "Limit", "ExclusiveStartKey", "Segment", "TotalSegments"},
    "UpdateItem": {"TableName", "Key", "UpdateExpression", "ExpressionAttributeNames", "ExpressionAttributeValues"},
    "UpdateTable": {"TableName", "StreamSpecification"},
}
"""What is understood of each operation; anything else is refused, so that no test relies on what is not there."""

_ASSIGNMENT = re.compile(r"\s*(#?\w+)\s*=\s*(:\w+)\s*")


def table_operations(account: Account) -> dict[str, Callable[[Request], Answer]]:
    """Name of each operation to what carries it out."""
    operations: dict[str, Callable[[Account, Request], Answer]] = {
        "CreateTable": _create_table,
        "DeleteItem": _delete_item,
        "DeleteTable": _delete_table,
        "DescribeTable": _describe_table,
        "PutItem": _put_item,
        "Scan": _scan,
        "UpdateItem": _update_item,
        "UpdateTable": _update_table,
    }

    def bound(name: str, operation: Callable[[Account, Request], Answer]) -> Callable[[Request], Answer]:
        def run(request: Request) -> Answer:
            if unknown := request.keys() - PARAMETERS[name]:
                raise invalid(f"this server does not know {', '.join(sorted(unknown))} of {name}")
            return operation(account, request)

        return run

    return {name: bound(name, operation) for name, operation in operations.items()}


def _create_table(account: Account, request: Request) -> Answer:
    table = account.create_table(request["TableName"], request["KeySchema"], request["AttributeDefinitions"])
    if request.get("StreamSpecification", {}).get("StreamEnabled"):
        account.specify_stream(table, request["StreamSpecification"])
    return {"TableDescription": table.describe()}


def _update_table(account: Account, request: Request) -> Answer:
    table = account.table(request["TableName"])
    if "StreamSpecification" not in request:
        raise invalid("At least one of StreamSpecification is required")
    account.specify_stream(table, request["StreamSpecification"])
    return {"TableDescription": table.describe()}


def _describe_table(account: Account, request: Request) -> Answer:
    return {"Table": account.table(request["TableName"]).describe()}


def _delete_table(account: Account, request: Request) -> Answer:
    return {"TableDescription": account.delete_table(request["TableName"]).describe() | {"TableStatus": "DELETING"}}


def _put_item(account: Account, request: Request) -> Answer:
    account.table(request["TableName"]).put(request["Item"])
    return {}


def _scan(account: Account, request: Request) -> Answer:
    if request.get("ConsistentRead") is not True:
        raise invalid("this server knows consistent reads only")
    if ("Segment" in request) != ("TotalSegments" in request):
        raise invalid("Segment and TotalSegments must be given together")
    if request.get("Segment", 0) >= request.get("TotalSegments", 1):
        raise invalid("The Segment parameter must be less than TotalSegments")
    found, last = account.table(request["TableName"]).scan(
        limit=request.get("Limit"),
        after=request.get("ExclusiveStartKey"),
        segment=request.get("Segment", 0),
        segments=request.get("TotalSegments", 1),
    )
    answer: Answer = {"Items": found, "Count": len(found), "ScannedCount": len(found)}
    return answer if last is None else answer | {"LastEvaluatedKey": last}


def _delete_item(account: Account, request: Request) -> Answer:
    account.table(request["TableName"]).delete(request["Key"])
    return {}


def _update_item(account: Account, request: Request) -> Answer:
    assignments = _assignments(request)
    account.table(request["TableName"]).update(request["Key"], lambda item: item.update(assignments))
    return {}


def _assignments(request: Request) -> Item:
    """The attributes that `SET name = :value, ...` names."""
    expression = request.get("UpdateExpression", "")
    if not expression:
        return {}
    if not expression.upper().startswith("SET "):
        raise invalid("Invalid UpdateExpression: this server knows SET only")
    names = request.get("ExpressionAttributeNames", {})
    values = request.get("ExpressionAttributeValues", {})
    found: Item = {}
    for part in expression[4:].split(","):
        if (match := _ASSIGNMENT.fullmatch(part)) is None or match[2] not in values:
            raise invalid(f"Invalid UpdateExpression: {part}")
        if match[1].startswith("#") and match[1] not in names:
            raise invalid(f"Invalid UpdateExpression: an expression attribute name is not defined: {match[1]}")
        found[names.get(match[1], match[1])] = values[match[2]]
    return found
