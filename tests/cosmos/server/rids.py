"""Resource ids: bytes in base64, of which a child's begin with its parent's."""

import base64

DATABASE_BYTES = 4
CONTAINER_BYTES = 8


def database_rid(number: int) -> str:
    """The id of a database."""
    return _text(number.to_bytes(DATABASE_BYTES))


def container_rid(database: str, number: int) -> str:
    """The id of a container; its highest bit tells it from a user."""
    return _text(_bytes(database) + (0x80000000 | number).to_bytes(CONTAINER_BYTES - DATABASE_BYTES))


def child_rid(container: str, number: int, *, kind: int = 0) -> str:
    """The id of an item, or of a partition key range (kind 0x50)."""
    return _text(_bytes(container) + number.to_bytes(7, "little") + bytes([kind]))


def _text(rid: bytes) -> str:
    return base64.b64encode(rid).decode().replace("/", "-")


def _bytes(rid: str) -> bytes:
    return base64.b64decode(rid.replace("-", "/"))
