"""What a container says of itself, and what its feed can do."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple

from changefeed_gateway.core.model import Capability, CapabilityName, PortabilityWarning
from changefeed_gateway.core.snapshot import SNAPSHOT_CONVERGES
from changefeed_gateway.providers.cosmos.cursor import Mode
from changefeed_gateway.providers.cosmos.mapping import KeyPath, key_paths

_FORBIDDEN: Final = re.compile(r"[/\\?#\x00-\x1f\x7f]")
_LONGEST_NAME: Final = 255

WARNINGS: Final = (
    PortabilityWarning(
        code="CREATES_ARE_UPDATES",
        message="mode latest_version does not tell a new item from a changed one: every change is an update",
    ),
    PortabilityWarning(
        code="VERSIONS_ARE_CONFLATED",
        message="mode latest_version tells the last version of an item, and none that was replaced before it was read",
    ),
    PortabilityWarning(
        code="NO_DELETES",
        message="mode latest_version does not tell deletions: an item that is deleted, or expires, stays in a mirror",
    ),
)
"""What is said with every page of mode latest_version."""


class Container(NamedTuple):
    """One life of a container: made again under its name it has another rid."""

    name: str
    rid: str
    paths: tuple[KeyPath, ...]
    mode: Mode


def is_name(text: str) -> bool:
    """Whether a database or container can be called so; nothing else may get into the path of a request."""
    return 0 < len(text) <= _LONGEST_NAME and not _FORBIDDEN.search(text) and text.strip(" .") != ""


def container_of(described: Mapping[str, Any], mode: Mode) -> Container:
    """What the description of a container says."""
    return Container(described["id"], described["_rid"], key_paths(described.get("partitionKey") or {}), mode)


def capabilities(mode: Mode, backup_window: timedelta | None) -> tuple[Capability, ...]:
    """What the feed of a container can do."""
    latest = mode is Mode.LATEST_VERSION
    missing: dict[CapabilityName, str] = {}
    if latest:
        missing[CapabilityName.DELETES] = "mode latest_version does not tell deletions"
    else:
        only = "all_versions_and_deletes is read from now or from a token only: the service refuses every other start"
        missing = {CapabilityName.BEGINNING: only, CapabilityName.POINT_IN_TIME: only}
    window = "within the account's backup window" if backup_window is None else f"the last {backup_window.days} days"
    details = {
        CapabilityName.CHANGE_FEED: (
            "mode latest_version: creates are told as updates, versions are conflated, deletions are not told"
            if latest
            else f"mode all_versions_and_deletes: every version, {window}"
        ),
        CapabilityName.BEGINNING: "the latest version of every item",
        CapabilityName.POINT_IN_TIME: "to about five seconds, as far back as the container goes",
        CapabilityName.LOGICAL_PARTITION_SCOPE: "hierarchical keys by prefix too",
        CapabilityName.NEW_ITEM_STATE: "the latest version" if latest else "the item as the change left it",
        CapabilityName.DELETES: "items that expired have the origin EXPIRY",
        CapabilityName.SNAPSHOT: f"converges: {SNAPSHOT_CONVERGES.message}",
        CapabilityName.SNAPSHOT_PHYSICAL_PARTITION_SCOPE: "converges; where the range splits, the items of its parts",
        CapabilityName.SNAPSHOT_LOGICAL_PARTITION_SCOPE: "converges; hierarchical keys by prefix too",
    }
    return tuple(
        Capability(name=name, supported=name not in missing, detail=missing.get(name, details.get(name, "")))
        for name in CapabilityName
    )
