package io.changefeed.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** A call that failed. The category is for branching, the reason for telling cases apart, the message for people. */
public final class ChangeFeedException extends RuntimeException {
    /** Categories of what the way to the gateway answers: proxies and connections send no details. */
    private static final Map<Status.Code, Category> CATEGORY_WITHOUT_DETAILS = Map.of(
            Status.Code.UNAVAILABLE, Category.TRANSIENT_FAILURE,
            Status.Code.DEADLINE_EXCEEDED, Category.TRANSIENT_FAILURE,
            Status.Code.CANCELLED, Category.TRANSIENT_FAILURE,
            Status.Code.INTERNAL, Category.TRANSIENT_FAILURE,
            Status.Code.UNAUTHENTICATED, Category.AUTHENTICATION_FAILED,
            Status.Code.PERMISSION_DENIED, Category.AUTHORIZATION_FAILED,
            Status.Code.INVALID_ARGUMENT, Category.INVALID_REQUEST);

    /** Codes of cut connections, of streams that a proxy reset and of silence; reading again is always safe. */
    private static final Set<Status.Code> LOST_ON_THE_WAY = Set.of(
            Status.Code.UNAVAILABLE, Status.Code.CANCELLED, Status.Code.INTERNAL, Status.Code.DEADLINE_EXCEEDED);

    private final Status.Code code;
    private final String reason;
    private final String categoryName;
    private final boolean retryable;
    private final Duration retryAfter;
    private final String provider;
    private final String requestId;
    private final Map<String, String> metadata;
    private final List<FieldViolation> violations;

    /** One field of a request that was refused. */
    public record FieldViolation(String field, String description) {}

    private ChangeFeedException(com.google.rpc.Status said, Throwable cause) {
        this(said, new Details(said), cause);
    }

    private ChangeFeedException(com.google.rpc.Status said, Details details, Throwable cause) {
        super(text(said, details.info), cause);
        Map<String, String> more = new HashMap<>(details.info.getMetadataMap());
        code = Status.fromCodeValue(said.getCode()).getCode();
        reason = details.info.getReason();
        String known = more.getOrDefault("category", "");
        categoryName = known.isEmpty()
                ? CATEGORY_WITHOUT_DETAILS.getOrDefault(code, Category.PROVIDER_ERROR).name()
                : known;
        retryable = reason.isEmpty() ? LOST_ON_THE_WAY.contains(code) : "true".equals(more.get("retryable"));
        retryAfter = Spans.span(details.retry.getRetryDelay());
        provider = more.getOrDefault("provider", "");
        requestId = more.getOrDefault("request_id", "");
        more.keySet().removeAll(Set.of("category", "retryable", "provider", "request_id"));
        metadata = Map.copyOf(more);
        violations = details.request.getFieldViolationsList().stream()
                .map(violation -> new FieldViolation(violation.getField(), violation.getDescription()))
                .toList();
    }

    /** Decodes a status, such as {@code InspectContinuationTokenResponse.problem}. */
    public static ChangeFeedException of(com.google.rpc.Status said) {
        return new ChangeFeedException(said, null);
    }

    /** Decodes what a call of a generated stub threw. */
    public static ChangeFeedException of(StatusRuntimeException thrown) {
        Status status = thrown.getStatus();
        try {
            return new ChangeFeedException(StatusProto.fromStatusAndTrailers(status, thrown.getTrailers()), thrown);
        } catch (IllegalArgumentException e) {
            // What is no status comes from somebody on the way, and the code says enough.
            return new ChangeFeedException(StatusProto.fromStatusAndTrailers(status, new Metadata()), thrown);
        }
    }

    private static String text(com.google.rpc.Status said, ErrorInfo info) {
        String what = info.getReason().isEmpty()
                ? Status.fromCodeValue(said.getCode()).getCode().name()
                : info.getReason();
        String request = info.getMetadataOrDefault("request_id", "");
        return what + ": " + said.getMessage() + (request.isEmpty() ? "" : " [request " + request + "]");
    }

    public Status.Code code() {
        return code;
    }

    public Category category() {
        return Category.of(categoryName);
    }

    /** The category as the gateway calls it, also one of a later contract. */
    public String categoryName() {
        return categoryName;
    }

    /** What exactly went wrong, such as TOKEN_SIGNATURE; empty when the gateway did not answer. */
    public String reason() {
        return reason;
    }

    /**
     * Whether the same call may succeed soon. It is false for PROVIDER_AUTHENTICATION_FAILED and
     * PROVIDER_AUTHORIZATION_FAILED, although their code is UNAVAILABLE: they pass when an operator has acted.
     */
    public boolean retryable() {
        return retryable;
    }

    /** How long the gateway asks to wait first; zero if it does not. */
    public Duration retryAfter() {
        return retryAfter;
    }

    /** The kind of the database, where the gateway says so. */
    public String provider() {
        return provider;
    }

    /** Finds the call in the gateway's logs. */
    public String requestId() {
        return requestId;
    }

    /** Everything else the gateway says about the failure. */
    public Map<String, String> metadata() {
        return metadata;
    }

    /** The fields of the request that were refused. */
    public List<FieldViolation> violations() {
        return violations;
    }

    /** What a status holds beside its code; empty messages in place of what it lacks. */
    private static final class Details {
        private ErrorInfo info = ErrorInfo.getDefaultInstance();
        private RetryInfo retry = RetryInfo.getDefaultInstance();
        private BadRequest request = BadRequest.getDefaultInstance();

        Details(com.google.rpc.Status said) {
            for (Any detail : said.getDetailsList()) {
                try {
                    take(detail);
                } catch (InvalidProtocolBufferException e) {
                    // What is no detail comes from somebody on the way, and the code says enough.
                }
            }
        }

        private void take(Any detail) throws InvalidProtocolBufferException {
            if (detail.is(ErrorInfo.class)) {
                info = detail.unpack(ErrorInfo.class);
            } else if (detail.is(RetryInfo.class)) {
                retry = detail.unpack(RetryInfo.class);
            } else if (detail.is(BadRequest.class)) {
                request = detail.unpack(BadRequest.class);
            }
        }
    }
}
