package io.changefeed.client;

import io.grpc.ChannelCredentials;
import io.grpc.CompositeChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.TlsChannelCredentials;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.Supplier;
import java.util.stream.Stream;

/**
 * How to reach a gateway: in plaintext unless told otherwise. A connection that takes longer than 100 seconds to open, TLS
 * included, is given up for another.
 */
public final class ConnectOptions {
    private static final String SERVICE = "changefeed.v1.ChangeFeedService";

    /** Retries of unary calls inside gRPC. A stream is not retried there: resuming needs its last token. */
    private static final Map<String, Object> SERVICE_CONFIG = Map.of(
            "methodConfig",
            List.of(Map.of(
                    "name",
                    Stream.of(
                                    "ReadChanges",
                                    "ListPhysicalPartitions",
                                    "GetCapabilities",
                                    "ResolveStartPosition",
                                    "InspectContinuationToken")
                            .map(method -> Map.of("service", SERVICE, "method", method))
                            .toList(),
                    "retryPolicy",
                    Map.of(
                            "maxAttempts", 4.0,
                            "initialBackoff", "0.1s",
                            "maxBackoff", "2s",
                            "backoffMultiplier", 2.0,
                            "retryableStatusCodes", List.of("UNAVAILABLE")))));

    private ChannelCredentials tls;
    private Supplier<String> bearer;
    private Consumer<ManagedChannelBuilder<?>> more = builder -> {};
    Duration longestOpening = Opening.LONGEST;

    /** Encrypts, trusting the system's roots. */
    public ConnectOptions tls() {
        return tls(TlsChannelCredentials.create());
    }

    /** Encrypts with made credentials: roots of one's own, or a certificate that identifies the client (mTLS). */
    public ConnectOptions tls(ChannelCredentials credentials) {
        tls = credentials;
        return this;
    }

    /**
     * Sends a token with every call and every stream that is opened. It is asked each time, so that it may be renewed; it
     * should answer from memory. It needs TLS. What it throws, and a text that can be no token (null, empty, or more than
     * visible ASCII), is an outage: UNAVAILABLE, which a tail waits out. Nothing of such a text is shown.
     */
    public ConnectOptions bearer(Supplier<String> token) {
        bearer = token;
        return this;
    }

    /** Sets options of gRPC's own. */
    public ConnectOptions channel(Consumer<ManagedChannelBuilder<?>> options) {
        more = options;
        return this;
    }

    /** What makes channels, each with a connection of its own, as these options are now. */
    Supplier<ManagedChannel> dialer(String target) {
        ChannelCredentials credentials = credentials();
        Consumer<ManagedChannelBuilder<?>> options = more;
        Duration longest = longestOpening;
        return () -> {
            ManagedChannelBuilder<?> builder = Grpc.newChannelBuilder(target, credentials)
                    .defaultServiceConfig(SERVICE_CONFIG)
                    // Data of an idle stream are its heartbeats; a ping finds a dead peer while calls are open.
                    .keepAliveTime(30, TimeUnit.SECONDS)
                    .keepAliveTimeout(10, TimeUnit.SECONDS);
            options.accept(builder);
            return Opening.bounded(builder.build(), longest);
        };
    }

    private ChannelCredentials credentials() {
        if (bearer == null) {
            return tls == null ? InsecureChannelCredentials.create() : tls;
        }
        if (tls == null) {
            throw new IllegalArgumentException("a bearer token is sent over TLS only: say tls()");
        }
        return CompositeChannelCredentials.create(tls, new Bearer(bearer));
    }
}
