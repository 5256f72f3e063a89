"""The provider that tests put in front of an emulator or a server: short heartbeats, so that nothing waits long."""

from datetime import timedelta
from typing import Any

from changefeed_gateway.providers.spanner.provider import SpannerOptions, SpannerProvider
from changefeed_gateway.providers.spanner.reading import Pace
from changefeed_gateway.providers.spanner.sdk import Endpoint, Retries

PACE = Pace(heartbeat=timedelta(milliseconds=100))
RETRIES = Retries(
    attempts=4,
    first_pause=timedelta(milliseconds=20),
    longest_pause=timedelta(milliseconds=200),
    answer_timeout=timedelta(seconds=10),
)
IMPATIENT = Retries(
    attempts=2,
    first_pause=timedelta(milliseconds=20),
    longest_pause=timedelta(milliseconds=200),
    answer_timeout=timedelta(seconds=1),
)
"""For who waits for a service that does not answer."""


def make_provider(path: str, host: str, **options: Any) -> SpannerProvider:
    """A provider of a database by its full name; `options` are those of `SpannerOptions`."""
    _, project, _, instance, _, database = path.split("/")
    chosen: dict[str, Any] = {
        "endpoint": Endpoint(project=project, instance=instance, database=database, emulator_host=host),
        "pace": PACE,
        "retries": RETRIES,
    }
    return SpannerProvider(SpannerOptions(**(chosen | options)))
