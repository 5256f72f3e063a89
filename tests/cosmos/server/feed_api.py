"""The change feed: one page of one partition key range, in either mode."""

from email.utils import parsedate_to_datetime

from tests.cosmos.server.account import Account
from tests.cosmos.server.change import Change
from tests.cosmos.server.container import Container
from tests.cosmos.server.errors import continuation_expired, feed_is_off, invalid, merged
from tests.cosmos.server.message import Answer, Request
from tests.cosmos.server.pk_range import PkRange
from tests.cosmos.server.place import Place

FULL_FIDELITY = "Full-Fidelity Feed"
INCREMENTAL = "Incremental Feed"
WIRE_FORMAT = "2021-09-15"
PAGE = 100
"""Changes of a page that nobody limits."""

PAGE_BYTES = 4 * 1024 * 1024


class FeedApi:
    """Reads the change feed."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.empty_pages: dict[str, int] = {}
        """How many more pages of a range have nothing in them, by rid."""

    def read(self, request: Request) -> Answer:
        """A page: 304 if nothing is behind the continuation."""
        container = self.account.container(request.path[1], request.path[3])
        full = self._is_full(request)
        place = self._as_told(Place.of(request, container), container)
        position = _position(request, container, place.home, full=full)
        since = _since(request)
        if self._has_empty_page(place.home):
            return _page(container, place.home, [], max(position, 0))
        limit = int(request.headers.get("x-ms-max-item-count", -1))
        found = place.home.after(
            position,
            limit if limit > 0 else PAGE,
            (lambda _: True) if full else lambda change: change.is_latest and int(change.time) >= since,
            place.low,
            place.high,
        )
        if not found:
            return Answer(304, headers={"etag": f'"{place.home.lsn}"', **place.home.headers})
        return _page(container, place.home, self._told(found, full=full), found[-1].lsn)

    def _as_told(self, place: Place, container: Container) -> Place:
        answers, lag = container.stale
        if not answers:
            return place
        container.stale = answers - 1, lag
        return place._replace(home=place.home.as_of(place.home.lsn - lag))

    def _is_full(self, request: Request) -> bool:
        mode = request.headers["A-IM"]
        if mode == INCREMENTAL:
            return False
        if mode != FULL_FIDELITY:
            raise invalid(f"The value {mode} of the header A-IM is invalid.")
        if not self.account.behaviour.all_versions_and_deletes:
            raise feed_is_off()
        if request.headers.get("x-ms-cosmos-changefeed-wire-format-version") != WIRE_FORMAT:
            raise invalid("This server knows one wire format of AllVersionsAndDeletes only.")
        return True

    def _told(self, found: list[Change], *, full: bool) -> list[str]:
        if not full:
            return [change.latest() for change in found]
        behaviour = self.account.behaviour
        return [
            change.full(deleted_current=behaviour.deleted_current, previous_image=behaviour.previous_image)
            for change in found
        ]

    def _has_empty_page(self, home: PkRange) -> bool:
        left = self.empty_pages.get(home.rid, 0)
        self.empty_pages[home.rid] = max(0, left - 1)
        return left > 0


def _position(request: Request, container: Container, home: PkRange, *, full: bool) -> int:
    """The lsn that has been passed. Raises BadRequest, and InternalServerError behind a merge."""
    etag = request.headers.get("If-None-Match")
    if etag == "*":
        return max(home.horizon, home.merged_at, home.lsn - container.now_lag)
    if full and (etag is None or "If-Modified-Since" in request.headers):
        raise invalid("AllVersionsAndDeletes can be read from now or from a continuation only.")
    if etag is None:
        return -1
    number = etag.strip('"')
    if not number.isdigit():
        raise invalid(f"The continuation {etag} is invalid.")
    position = int(number)
    if full and position < home.horizon:
        raise continuation_expired()
    if full and position < home.merged_at:
        raise merged()
    return position


def _since(request: Request) -> int:
    """Epoch seconds before which nothing is wanted, behind a merge neither: there the times do not ascend."""
    told = request.headers.get("If-Modified-Since")
    return 0 if told is None else int(parsedate_to_datetime(told).timestamp())


def _page(container: Container, home: PkRange, documents: list[str], position: int) -> Answer:
    text = f'{{"_rid":"{container.rid}","Documents":[{",".join(documents)}],"_count":{len(documents)}}}'
    headers = {"etag": f'"{position}"', "x-ms-item-count": str(len(documents)), **home.headers}
    return Answer(200, text.encode(), headers)
