"""The SQL that the gateway sends, from the files beside, with the names of one feed's relations put in."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final, Self

from psycopg import sql

_PACKAGE = "changefeed_gateway.providers.postgres"


@cache
def _text(name: str) -> str:
    return files(_PACKAGE).joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


SEQUENCES: Final = _text("sequences")
TICK_OF_FEED: Final = _text("tick_of_feed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statements:
    """One feed's statements; what each takes and gives stands at the top of its file."""

    tick: str
    newest_tick: str
    oldest_tick: str
    ticks_between: str
    tick_at: str
    history: str
    ticks_of: str
    live: str
    page: str
    page_finished: str
    page_of_key: str
    page_of_key_finished: str
    range_of_key: str
    page_of_buckets: str
    page_of_buckets_finished: str
    page_of_few_buckets: str
    page_of_few_buckets_finished: str
    range_of_few_buckets: str
    partitions: str
    images: str
    current_images: str
    items: str
    places: str
    estimate: str

    @classmethod
    def of_feed(cls, feed_id: int, image_function: str | None) -> Self:
        """Put in the names of a feed's relations."""
        parents = {f"{part}_name": sql.Literal(f"changefeed_log.{part}_{feed_id}") for part in ("log", "tick", "day")}
        names = {
            "row": sql.SQL(_text("row").rstrip()),
            "days": sql.SQL(_text("days").rstrip()).format(**parents),
            "log": sql.Identifier("changefeed_log", f"log_{feed_id}"),
            "feed_id": sql.Literal(feed_id),
            **parents,
            "ticks": sql.Identifier("changefeed_log", f"tick_{feed_id}"),
            "live": sql.Identifier("changefeed_log", f"live_{feed_id}"),
            "make_tick": sql.Identifier("changefeed_log", f"make_tick_{feed_id}"),
            "items": sql.Identifier("changefeed_log", f"items_{feed_id}"),
            "places": sql.Identifier("changefeed_log", f"places_{feed_id}"),
            "image_function": sql.Identifier(*(image_function or "none").split(".")),
        }
        return cls(**{name: sql.SQL(_text(name)).format(**names).as_string() for name in cls.__slots__})
