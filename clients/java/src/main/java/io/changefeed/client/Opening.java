package io.changefeed.client;

import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;

/**
 * Bounds how long a channel opens a connection. gRPC bounds TCP and TLS, and then waits for the peer's first word for
 * ever: behind a peer that says none, every call would run into its deadline, also when a better peer has come.
 */
final class Opening {
    /** Longer than gRPC lets three addresses take, 30 s each, so that the next one has its turn. */
    static final Duration LONGEST = Duration.ofSeconds(100);

    private final ManagedChannel channel;
    private final Executor later;
    private volatile Object current;

    private Opening(ManagedChannel channel, Duration longest) {
        this.channel = channel;
        later = CompletableFuture.delayedExecutor(Spans.nanos(longest), TimeUnit.NANOSECONDS);
    }

    static ManagedChannel bounded(ManagedChannel channel, Duration longest) {
        new Opening(channel, longest).watch();
        return channel;
    }

    private void watch() {
        Object now = new Object();
        current = now;
        ConnectivityState state = channel.getState(false);
        if (state == ConnectivityState.CONNECTING) {
            later.execute(() -> leave(now));
        }
        if (state != ConnectivityState.SHUTDOWN) {
            channel.notifyWhenStateChanged(state, this::watch);
        }
    }

    /** Begins anew, with the calls that wait. */
    private void leave(Object opening) {
        if (opening == current) {
            channel.enterIdle();
        }
    }
}
