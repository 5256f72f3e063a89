"""A position in one partition as bytes; big-endian, so that they compare in reading order."""

import struct

from changefeed_gateway.core.errors import InvalidRequest, Reason
from changefeed_gateway.core.model import Cursor

LOGICAL = 0
"""Stands in the place of a partition number in the cursors of a logical partition."""

_VERSION = 1
_LAYOUT = struct.Struct(">BIQ")


def encode_cursor(number: int, position: int) -> Cursor:
    """Write the position after which reading goes on in one partition."""
    return Cursor(_LAYOUT.pack(_VERSION, number, position))


def decode_cursor(cursor: Cursor, *, number: int) -> int:
    """Read the position back.

    Raises InvalidRequest: TOKEN_VERSION for a layout of another release, TOKEN_MALFORMED for anything else that this
    provider did not write for this partition. The caller holds the token, so the caller is told.
    """
    if cursor[:1] != bytes([_VERSION]):
        raise InvalidRequest(
            "the position was written by another release of the gateway: restart from beginning or now",
            reason=Reason.TOKEN_VERSION,
        )
    if len(cursor) != _LAYOUT.size:
        raise _malformed()
    _, written_for, position = _LAYOUT.unpack(cursor)
    if written_for != number:
        raise _malformed()
    return int(position)


def _malformed() -> InvalidRequest:
    return InvalidRequest(
        "the position is not one of this partition: restart from beginning or now", reason=Reason.TOKEN_MALFORMED
    )
