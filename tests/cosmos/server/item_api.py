"""The operations on items: each write is one transaction, a batch too."""

from collections.abc import Callable, Mapping
from typing import Any

from tests.cosmos.server.account import Account
from tests.cosmos.server.container import Container, Transaction
from tests.cosmos.server.errors import ServiceError, invalid
from tests.cosmos.server.message import Answer, Request, answer
from tests.cosmos.server.partition_key import Component

BATCH = 100
"""Operations that a transactional batch may have."""


def item_operations(account: Account) -> Mapping[str, Callable[[Request], Answer]]:
    """Name of each operation to what carries it out."""
    api = ItemApi(account)
    return {
        "CreateItem": api.create,
        "UpsertItem": api.upsert,
        "ReplaceItem": api.replace,
        "DeleteItem": api.delete,
        "ReadItem": api.read,
        "Batch": api.batch,
    }


class ItemApi:
    """Reads and writes single items and batches."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def create(self, request: Request) -> Answer:
        """Make an item."""
        container, key, transaction = self._begin(request, request.json())
        return _done(container, key, transaction, transaction.create(request.json()), 201)

    def upsert(self, request: Request) -> Answer:
        """Make or replace an item."""
        container, key, transaction = self._begin(request, request.json())
        known = (container.definition.epk(key), request.json().get("id")) in container.latest
        made = transaction.upsert(request.json(), if_match=request.headers.get("If-Match"))
        return _done(container, key, transaction, made, 200 if known else 201)

    def replace(self, request: Request) -> Answer:
        """Replace an item."""
        container, key, transaction = self._begin(request, request.json())
        made = transaction.replace(request.path[5], request.json(), if_match=request.headers.get("If-Match"))
        return _done(container, key, transaction, made, 200)

    def delete(self, request: Request) -> Answer:
        """Remove an item."""
        container, key, transaction = self._begin(request)
        transaction.delete(request.path[5], if_match=request.headers.get("If-Match"))
        transaction.commit()
        return Answer(204, headers=_headers(container, key))

    def read(self, request: Request) -> Answer:
        """An item."""
        container, key, _ = self._begin(request)
        item = container.read(key, request.path[5])
        return answer(item, headers=_headers(container, key, item))

    def batch(self, request: Request) -> Answer:
        """Many operations on one logical partition, all of them or none."""
        container, key, transaction = self._begin(request)
        operations = request.json()
        if not 1 <= len(operations) <= BATCH:
            raise invalid("A batch has between 1 and 100 operations.")
        results: list[dict[str, Any]] = []
        for operation in operations:
            try:
                results.append(_step(transaction, operation))
            except ServiceError as error:
                results = [_failed(424) for _ in operations]
                results[operations.index(operation)] = _failed(error.status, error.sub_status)
                return answer(results, 207, _headers(container, key))
        transaction.commit()
        return answer(results, 200, _headers(container, key))

    def _begin(
        self, request: Request, item: dict[str, Any] | None = None
    ) -> tuple[Container, list[Component], Transaction]:
        container = self._account.container(request.path[1], request.path[3])
        header = request.headers.get("x-ms-documentdb-partitionkey")
        if header is None and item is None:
            raise invalid("PartitionKey value must be supplied for this operation.")
        key = container.definition.of(item or {}) if header is None else container.definition.read(header)
        if len(key) != len(container.definition.paths):
            raise invalid("Partition key provided either doesn't correspond to definition in the collection.", 1001)
        return container, key, container.transaction(key)


def _step(transaction: Transaction, operation: Mapping[str, Any]) -> dict[str, Any]:
    match operation["operationType"]:
        case "Create":
            return _made(201, transaction.create(operation["resourceBody"]))
        case "Upsert":
            return _made(200, transaction.upsert(operation["resourceBody"], if_match=operation.get("ifMatch")))
        case "Replace":
            item_id, body = operation["id"], operation["resourceBody"]
            return _made(200, transaction.replace(item_id, body, if_match=operation.get("ifMatch")))
        case "Delete":
            transaction.delete(operation["id"], if_match=operation.get("ifMatch"))
            return {"statusCode": 204, "requestCharge": 1}
        case "Read":
            return _made(200, transaction.read(operation["id"]))
        case other:
            raise invalid(f"this server does not know {other} in a batch")


def _made(status: int, item: dict[str, Any]) -> dict[str, Any]:
    return {"statusCode": status, "requestCharge": 1, "eTag": item["_etag"], "resourceBody": item}


def _failed(status: int, sub_status: int = 0) -> dict[str, Any]:
    return {"statusCode": status, "subStatusCode": sub_status, "requestCharge": 0}


def _done(
    container: Container, key: list[Component], transaction: Transaction, item: dict[str, Any], status: int
) -> Answer:
    transaction.commit()
    return answer(item, status, _headers(container, key, item))


def _headers(container: Container, key: list[Component], item: dict[str, Any] | None = None) -> dict[str, str]:
    home = container.range_of(container.definition.epk(key))
    etag = {"etag": item["_etag"]} if item else {}
    return {"lsn": str(home.lsn), **home.headers, **etag}
