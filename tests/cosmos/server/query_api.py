"""Reads of many items: all of them or those of a query, of one range, one partition key, or everything."""

from collections.abc import Callable, Mapping

from tests.cosmos.server.account import Account
from tests.cosmos.server.change import Item, json_text
from tests.cosmos.server.container import Container
from tests.cosmos.server.errors import cross_partition
from tests.cosmos.server.message import Answer, Request, answer
from tests.cosmos.server.place import Place
from tests.cosmos.server.query import Query

EVERYTHING = Query("*", "c", "", ())
PAGE = 100
"""Items of a page that nobody limits."""


def query_operations(account: Account) -> Mapping[str, Callable[[Request], Answer]]:
    """Name of each operation to what carries it out."""

    def container_of(request: Request) -> Container:
        return account.container(request.path[1], request.path[3])

    def query(request: Request) -> Answer:
        container, asked = container_of(request), Query.parse(request.json())
        place = Place.of(request, container)
        if not place.is_chosen and len(container.ranges) > 1:
            raise cross_partition(json_text(asked.plan()))
        return _page(request, container, place, asked)

    def read_items(request: Request) -> Answer:
        container = container_of(request)
        return _page(request, container, Place.of(request, container), EVERYTHING)

    def plan(request: Request) -> Answer:
        return answer(Query.parse(request.json()).plan())

    return {"Query": query, "ReadItems": read_items, "PlanQuery": plan}


def _page(request: Request, container: Container, place: Place, query: Query) -> Answer:
    found = [item for item in container.items(lambda change: place.holds(change.epk)) if query.fits(item)]
    headers = place.home.headers
    if query.counts:
        return _documents(container, [query.counted(len(found))], headers)
    limit = int(request.headers.get("x-ms-max-item-count", -1))
    limit = limit if limit > 0 else PAGE
    passed = request.headers.get("x-ms-continuation", "")
    rest = sorted((item for item in found if _position(item) > passed), key=_position)
    if len(rest) > limit:
        headers["x-ms-continuation"] = _position(rest[limit - 1])
    return _documents(container, list(rest[:limit]), headers)


def _position(item: Item) -> str:
    rid: str = item["_rid"]
    return rid


def _documents(container: Container, documents: list[object], headers: Mapping[str, str]) -> Answer:
    return answer({"_rid": container.rid, "Documents": documents, "_count": len(documents)}, headers=headers)
