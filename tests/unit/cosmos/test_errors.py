"""The table from the SDK's exceptions to ours."""

import pytest
from azure.core.exceptions import ClientAuthenticationError, DecodeError, ServiceRequestError, ServiceResponseError
from azure.cosmos.aio import CosmosClient
from azure.cosmos.exceptions import CosmosClientTimeoutError, CosmosHttpResponseError

from changefeed_gateway.core.errors import (
    FeedNotProvisioned,
    HistoryGap,
    InvalidRequest,
    NotFound,
    ProviderAuthenticationFailed,
    ProviderAuthorizationFailed,
    ProviderFailure,
    Throttled,
    TransientFailure,
)
from changefeed_gateway.providers.cosmos.errors import READ_FEED, Answered, RangeGone, Refused, translate, without_text

TIMED_OUT = CosmosClientTimeoutError()  # type: ignore[no-untyped-call]


def http(status: int, sub_status: int = 0, text: str = "fake-secret") -> CosmosHttpResponseError:
    return CosmosHttpResponseError(  # type: ignore[no-untyped-call]
        status_code=status, message=text, sub_status=sub_status
    )


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (http(400), Refused),
        (http(400, text="Change Feed 'All Versions and Deletes' mode MUST be enabled."), FeedNotProvisioned),
        (http(400, text="AllVersionsAndDeletes must be enabled"), FeedNotProvisioned),
        (http(400, 1024), InvalidRequest),
        (http(401), ProviderAuthenticationFailed),
        (http(403), ProviderAuthorizationFailed),
        (http(403, 3), TransientFailure),
        (http(403, 1008), TransientFailure),
        (http(404), NotFound),
        (http(404, 1002), TransientFailure),
        (http(408), TransientFailure),
        (http(410, 1002), RangeGone),
        (http(410, 1007), RangeGone),
        (http(410), RangeGone),
        (http(429), Throttled),
        (http(449), TransientFailure),
        (http(500), TransientFailure),
        (http(500, text="... Partition has more than two children which is not supported"), HistoryGap),
        (http(503, 21015), TransientFailure),
        (http(418), ProviderFailure),
        (Answered(429, 3200, None), Throttled),
        (TIMED_OUT, TransientFailure),
        (TimeoutError(), TransientFailure),
        (ServiceRequestError("fake-secret"), TransientFailure),
        (ServiceResponseError("fake-secret"), TransientFailure),
        (DecodeError("fake-secret"), TransientFailure),
        (ClientAuthenticationError("fake-secret"), ProviderAuthenticationFailed),
        (RecursionError(), TransientFailure),
        (ValueError("Invalid continuation: [Mismatch collection rid]"), InvalidRequest),
        (ValueError("fake-secret"), ProviderFailure),
        (KeyError("fake-secret"), ProviderFailure),
    ],
    ids=str,
)
def test_each_refusal_has_its_error_and_keeps_its_words_to_itself(error: Exception, kind: type[Exception]) -> None:
    found = translate(error, READ_FEED)
    assert type(found).__mro__[0] is kind or isinstance(found, kind)
    assert "fake-secret" not in str(found) + str(without_text(error))


def test_the_sdk_has_what_is_not_public_of_it() -> None:
    """`read_feed_ranges` tells neither ids nor ancestors: what is used instead must be there after an update."""
    client = CosmosClient("http://127.0.0.1:9", "a2V5")
    assert callable(client.client_connection._ReadPartitionKeyRanges)
    assert callable(client.client_connection.refresh_routing_map_provider)
