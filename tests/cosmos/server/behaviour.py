"""What differs between accounts and days, or is not documented: a test chooses."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(kw_only=True)
class Behaviour:
    """May be changed while the server runs."""

    regions: tuple[str, ...] = ("Test Region",)
    """Where the account can be read, the first of them also written; not changed while the server runs."""
    ranges: int = 1
    """How many partition key ranges a new container begins with."""
    all_versions_and_deletes: bool = True
    """Whether the account has opted into AllVersionsAndDeletes."""
    deleted_current: bool = False
    """Whether the record of a delete has an empty `current`, or none."""
    previous_image: bool = False
    """Whether records of AllVersionsAndDeletes have `previous`, as accounts of the preview do."""
    request_charge: float = 2.0
    """Request units of every answer."""
    thinking: timedelta = timedelta(0)
    """How long a read of the feed takes, so that calls made at one time are seen to be under way at one time."""
