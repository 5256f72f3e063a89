"""The operations on the account, databases, containers and partition key ranges."""

import json
from collections.abc import Callable, Mapping

from tests.cosmos.server.account import Account
from tests.cosmos.server.errors import invalid
from tests.cosmos.server.message import Answer, Request, answer
from tests.cosmos.server.partition_key import Definition

QUERY_ENGINE = {
    "maxSqlQueryInputLength": 262144,
    "maxJoinsPerSqlQuery": 10,
    "maxLogicalAndPerSqlQuery": 2000,
    "maxLogicalOrPerSqlQuery": 2000,
    "maxUdfRefPerSqlQuery": 10,
    "maxInExpressionItemsCount": 16000,
    "queryMaxInMemorySortDocumentCount": 500,
    "maxQueryRequestTimeoutFraction": 0.9,
    "sqlAllowNonFiniteNumbers": False,
    "sqlAllowAggregateFunctions": True,
    "sqlAllowSubQuery": True,
    "sqlAllowScalarSubQuery": True,
    "allowNewKeywords": True,
    "sqlAllowLike": True,
    "sqlAllowGroupByClause": True,
    "maxSpatialQueryCells": 12,
    "spatialMaxGeometryPointCount": 256,
    "sqlDisableOptimizationFlags": 0,
    "enableSpatialIndexing": True,
}


def container_operations(
    account: Account, locations: Callable[[], Mapping[str, str]]
) -> Mapping[str, Callable[[Request], Answer]]:
    """Name of each operation to what carries it out."""
    api = ContainerApi(account, locations)
    return {
        "GetAccount": api.read_account,
        "CreateDatabase": api.create_database,
        "ReadDatabase": api.read_database,
        "DeleteDatabase": api.delete_database,
        "CreateContainer": api.create_container,
        "ReadContainer": api.read_container,
        "ReadContainers": api.read_containers,
        "ReplaceContainer": api.replace_container,
        "DeleteContainer": api.delete_container,
        "ReadPartitionKeyRanges": api.read_ranges,
    }


class ContainerApi:
    """What is not about items."""

    def __init__(self, account: Account, locations: Callable[[], Mapping[str, str]]) -> None:
        self._account = account
        self._locations = locations

    def read_account(self, request: Request) -> Answer:
        """What the account is, and where."""
        locations = [{"name": name, "databaseAccountEndpoint": f"{url}/"} for name, url in self._locations().items()]
        return answer(
            {
                "_self": "",
                "id": "account",
                "_rid": "account.documents.example",
                "media": "//media/",
                "addresses": "//addresses/",
                "_dbs": "//dbs/",
                "writableLocations": locations[:1],
                "readableLocations": locations,
                "enableMultipleWriteLocations": False,
                "continuousBackupEnabled": True,
                "userReplicationPolicy": {"asyncReplication": False, "minReplicaSetSize": 3, "maxReplicasetSize": 4},
                "userConsistencyPolicy": {"defaultConsistencyLevel": "Session"},
                "systemReplicationPolicy": {"minReplicaSetSize": 3, "maxReplicasetSize": 4},
                "readPolicy": {"primaryReadCoefficient": 1, "secondaryReadCoefficient": 1},
                "queryEngineConfiguration": json.dumps(QUERY_ENGINE),
            }
        )

    def create_database(self, request: Request) -> Answer:
        """Make a database."""
        return answer(self._account.create_database(request.json()["id"]).describe(), 201)

    def read_database(self, request: Request) -> Answer:
        """A database."""
        return answer(self._account.database(request.path[1]).describe())

    def delete_database(self, request: Request) -> Answer:
        """Remove a database."""
        self._account.delete_database(request.path[1])
        return Answer(204)

    def create_container(self, request: Request) -> Answer:
        """Make a container."""
        body = request.json()
        made = self._account.create_container(
            request.path[1], body["id"], Definition.parse(body["partitionKey"]), ttl=body.get("defaultTtl")
        )
        return answer(made.describe(), 201)

    def read_container(self, request: Request) -> Answer:
        """A container."""
        container = self._account.container(request.path[1], request.path[3])
        usage = f"documentsSize=0;documentsCount={len(container.latest)};collectionSize=0"
        asked = request.headers.get("x-ms-documentdb-populatequotainfo", "").lower() == "true"
        return answer(container.describe(), headers={"x-ms-resource-usage": usage} if asked else {})

    def read_containers(self, request: Request) -> Answer:
        """The containers of a database."""
        database = self._account.database(request.path[1])
        shown = [container.describe() for container in database.containers.values()]
        return answer({"_rid": database.rid, "DocumentCollections": shown, "_count": len(shown)})

    def replace_container(self, request: Request) -> Answer:
        """Change what may be changed: the time to live."""
        container, body = self._account.container(request.path[1], request.path[3]), request.json()
        if Definition.parse(body["partitionKey"]) != container.definition:
            raise invalid("The partition key of a container cannot be changed.")
        container.default_ttl = body.get("defaultTtl")
        return answer(container.describe())

    def delete_container(self, request: Request) -> Answer:
        """Remove a container."""
        self._account.delete_container(request.path[1], request.path[3])
        return Answer(204)

    def read_ranges(self, request: Request) -> Answer:
        """The partition key ranges that are new since a listing."""
        container = self._account.container(request.path[1], request.path[3])
        etag = f'"{container.version}"'
        seen = request.headers.get("If-None-Match", "").strip('"')
        if request.headers.get("A-IM") != "Incremental Feed":
            seen = ""
        if seen == str(container.version):
            return Answer(304, headers={"etag": etag})
        ranges = container.listing(after=int(seen) if seen.isdigit() else 0)
        return answer(
            {"_rid": container.rid, "PartitionKeyRanges": ranges, "_count": len(ranges)}, headers={"etag": etag}
        )
