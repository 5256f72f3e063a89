"""Every way a call can fail, as one tree.

ChangeFeedError
├── InvalidRequest            field errors, START_REQUIRED, TOKEN_*
├── FeedNotProvisioned        the collection exists and captures no changes
├── CheckpointExpired         the history of a position is gone
├── UnsupportedCapability     the collection cannot do this; reason is the capability's name
│   └── NewItemStateUnavailable   REQUIRE was asked and one change has no item
├── NotFound                  connection, database, collection or partition
├── AuthenticationFailed      the caller is not known
│   └── CredentialsExpired    the caller was known when the call began, and is no more
├── AuthorizationFailed       the caller is known, and not allowed
├── Throttled                 too much; come back after `retry_after`
├── TransientFailure          come back after `retry_after`
├── ProviderAccessFailed      the provider refuses the gateway's own credentials: the operator's matter
│   ├── ProviderAuthenticationFailed  it does not know the gateway's login
│   └── ProviderAuthorizationFailed   the login lacks a right
├── ProviderFailure           the provider failed in a way nobody mapped
├── HistoryGap                a hole inside the retained history
└── InternalFailure           a fault of the gateway
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import ClassVar


class Category(Enum):
    """The portable kinds of failure; `ErrorInfo.metadata["category"]`."""

    INVALID_REQUEST = "INVALID_REQUEST"
    CHECKPOINT_EXPIRED = "CHECKPOINT_EXPIRED"
    UNSUPPORTED_CAPABILITY = "UNSUPPORTED_CAPABILITY"
    NOT_FOUND = "NOT_FOUND"
    AUTHENTICATION_FAILED = "AUTHENTICATION_FAILED"
    AUTHORIZATION_FAILED = "AUTHORIZATION_FAILED"
    THROTTLED = "THROTTLED"
    TRANSIENT_FAILURE = "TRANSIENT_FAILURE"
    PROVIDER_ERROR = "PROVIDER_ERROR"
    INTERNAL = "INTERNAL"


class Reason(Enum):
    """What exactly went wrong; `ErrorInfo.reason`. Capability names are reasons too."""

    FIELD_INVALID = "FIELD_INVALID"
    START_REQUIRED = "START_REQUIRED"
    TOKEN_MALFORMED = "TOKEN_MALFORMED"
    TOKEN_SIGNATURE = "TOKEN_SIGNATURE"
    TOKEN_VERSION = "TOKEN_VERSION"
    TOKEN_WRONG_PROVIDER = "TOKEN_WRONG_PROVIDER"
    TOKEN_WRONG_RESOURCE = "TOKEN_WRONG_RESOURCE"
    TOKEN_RESOURCE_RECREATED = "TOKEN_RESOURCE_RECREATED"
    TOKEN_WRONG_SCOPE = "TOKEN_WRONG_SCOPE"
    FEED_NOT_PROVISIONED = "FEED_NOT_PROVISIONED"
    CHECKPOINT_EXPIRED = "CHECKPOINT_EXPIRED"
    START_TIME_BEFORE_RETENTION = "START_TIME_BEFORE_RETENTION"
    NEW_ITEM_STATE_UNAVAILABLE = "NEW_ITEM_STATE_UNAVAILABLE"
    CONNECTION_NOT_FOUND = "CONNECTION_NOT_FOUND"
    DATABASE_NOT_FOUND = "DATABASE_NOT_FOUND"
    COLLECTION_NOT_FOUND = "COLLECTION_NOT_FOUND"
    PARTITION_NOT_FOUND = "PARTITION_NOT_FOUND"
    AUTHENTICATION_FAILED = "AUTHENTICATION_FAILED"
    CREDENTIALS_EXPIRED = "CREDENTIALS_EXPIRED"
    AUTHORIZATION_FAILED = "AUTHORIZATION_FAILED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    TOO_MANY_CONNECTIONS = "TOO_MANY_CONNECTIONS"
    PROVIDER_THROTTLED = "PROVIDER_THROTTLED"
    TOO_MANY_STREAMS = "TOO_MANY_STREAMS"
    TOO_MANY_CALLS = "TOO_MANY_CALLS"
    TOO_MANY_BAD_TOKENS = "TOO_MANY_BAD_TOKENS"
    CONSUMER_TOO_SLOW = "CONSUMER_TOO_SLOW"
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    PROVIDER_TIMEOUT = "PROVIDER_TIMEOUT"
    DRAINING = "DRAINING"
    PROVIDER_AUTHENTICATION_FAILED = "PROVIDER_AUTHENTICATION_FAILED"
    PROVIDER_AUTHORIZATION_FAILED = "PROVIDER_AUTHORIZATION_FAILED"
    PROVIDER_ERROR = "PROVIDER_ERROR"
    HISTORY_GAP = "HISTORY_GAP"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldViolation:
    """One request field that cannot be honoured, and what to send instead."""

    field: str
    description: str


class ChangeFeedError(Exception):
    """A failure with its category, reason and remedy. `str(error)` shows no secret, document or token."""

    category: ClassVar[Category]
    retryable: ClassVar[bool] = False
    default_reason: ClassVar[Reason] = Reason.INTERNAL
    """Where none is given; of UnsupportedCapability one always is."""

    def __init__(
        self,
        message: str,
        *,
        reason: Reason | str | None = None,
        metadata: Mapping[str, str] | None = None,
        fields: tuple[FieldViolation, ...] = (),
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        chosen = self.default_reason if reason is None else reason
        self.reason: str = chosen.value if isinstance(chosen, Reason) else chosen
        self.metadata: dict[str, str] = dict(metadata or {})
        self.fields = fields
        self.retry_after = retry_after
        self.logged = False
        """Whether the log tells of its cause already, as of a database that is away: nobody need tell it again."""


class InvalidRequest(ChangeFeedError):
    """The request can never succeed as it is."""

    category = Category.INVALID_REQUEST
    default_reason = Reason.FIELD_INVALID

    @classmethod
    def field(cls, field: str, description: str, *, reason: Reason | None = None) -> "InvalidRequest":
        """Refuse one field; `description` names the remedy."""
        violation = FieldViolation(field=field, description=description)
        return cls(f"{field}: {description}", reason=reason, fields=(violation,))


class FeedNotProvisioned(ChangeFeedError):
    """The collection exists and captures no changes; the message says what provisioning needs."""

    category = Category.INVALID_REQUEST
    default_reason = Reason.FEED_NOT_PROVISIONED


class CheckpointExpired(ChangeFeedError):
    """The history of a position is gone: restart from beginning or now."""

    category = Category.CHECKPOINT_EXPIRED
    default_reason = Reason.CHECKPOINT_EXPIRED


class UnsupportedCapability(ChangeFeedError):
    """The collection cannot do this; the reason is the capability's name."""

    category = Category.UNSUPPORTED_CAPABILITY


class NewItemStateUnavailable(UnsupportedCapability):
    """REQUIRE was asked and one change has no item; metadata carry its event_id and a token that steps over it."""

    default_reason = Reason.NEW_ITEM_STATE_UNAVAILABLE


class NotFound(ChangeFeedError):
    """The connection, database, collection or partition does not exist."""

    category = Category.NOT_FOUND
    default_reason = Reason.COLLECTION_NOT_FOUND


class AuthenticationFailed(ChangeFeedError):
    """The caller's credentials were refused; the gateway's own are `ProviderAccessFailed`."""

    category = Category.AUTHENTICATION_FAILED
    default_reason = Reason.AUTHENTICATION_FAILED


class CredentialsExpired(AuthenticationFailed):
    """The caller's credentials ended while its stream was open: it may come again at once, with newer ones."""

    retryable = True
    default_reason = Reason.CREDENTIALS_EXPIRED


class AuthorizationFailed(ChangeFeedError):
    """The caller is known and may not do this."""

    category = Category.AUTHORIZATION_FAILED
    default_reason = Reason.AUTHORIZATION_FAILED


class Throttled(ChangeFeedError):
    """Too much at once: come back after `retry_after`."""

    category = Category.THROTTLED
    retryable = True
    default_reason = Reason.PROVIDER_THROTTLED


class TransientFailure(ChangeFeedError):
    """The provider cannot answer now: come back after `retry_after`."""

    category = Category.TRANSIENT_FAILURE
    retryable = True
    default_reason = Reason.PROVIDER_UNAVAILABLE


class ProviderAccessFailed(ChangeFeedError):
    """The provider refuses the gateway's own credentials, or a right they lack; no caller can do anything about it.

    Not retryable at once: it passes when an operator has acted.
    """

    category = Category.PROVIDER_ERROR
    default_reason = Reason.PROVIDER_AUTHENTICATION_FAILED


class ProviderAuthenticationFailed(ProviderAccessFailed):
    """The provider does not know the gateway's login, or refuses its credentials."""


class ProviderAuthorizationFailed(ProviderAccessFailed):
    """The gateway's login lacks a right; the message names it."""

    default_reason = Reason.PROVIDER_AUTHORIZATION_FAILED


class ProviderFailure(ChangeFeedError):
    """The provider failed in a way nobody mapped; callers see only the request id."""

    category = Category.PROVIDER_ERROR
    default_reason = Reason.PROVIDER_ERROR


class HistoryGap(ChangeFeedError):
    """A hole inside the retained history: reading on would lose changes."""

    category = Category.PROVIDER_ERROR
    default_reason = Reason.HISTORY_GAP


class InternalFailure(ChangeFeedError):
    """A fault of the gateway; callers see only the request id."""

    category = Category.INTERNAL
    default_reason = Reason.INTERNAL
