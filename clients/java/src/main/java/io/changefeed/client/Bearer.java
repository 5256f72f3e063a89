package io.changefeed.client;

import io.grpc.CallCredentials;
import io.grpc.Metadata;
import io.grpc.Status;
import java.util.concurrent.Executor;
import java.util.function.Supplier;
import java.util.regex.Pattern;

/** Asks for the token of every call. Where none can be had, that is an outage, which passes when there is one again. */
final class Bearer extends CallCredentials {
    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    /** gRPC leaves out a header with anything else, and shows it in its log. */
    private static final Pattern TOKEN = Pattern.compile("[!-~]+");

    private final Supplier<String> source;

    Bearer(Supplier<String> source) {
        this.source = source;
    }

    @Override
    public void applyRequestMetadata(RequestInfo call, Executor executor, MetadataApplier applier) {
        executor.execute(() -> {
            String token;
            try {
                token = source.get();
            } catch (Throwable e) {
                // Whatever it is: a call that is told nothing would wait until its deadline.
                applier.fail(Status.UNAVAILABLE.withDescription("the source of bearer tokens failed").withCause(e));
                return;
            }
            apply(token, applier);
        });
    }

    private static void apply(String token, MetadataApplier applier) {
        if (token == null || !TOKEN.matcher(token).matches()) {
            // Nothing of the text: it may be a token and a line feed.
            applier.fail(Status.UNAVAILABLE.withDescription(
                    "that is no bearer token: it is empty, or holds more than visible ASCII"));
            return;
        }
        Metadata headers = new Metadata();
        headers.put(AUTHORIZATION, "Bearer " + token);
        applier.apply(headers);
    }
}
