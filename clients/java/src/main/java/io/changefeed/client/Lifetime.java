package io.changefeed.client;

import io.grpc.Context;
import java.util.HashSet;
import java.util.Set;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * How long a client or a tail may work: until it is closed, the thread is interrupted, or its gRPC context is cancelled.
 * That is the caller's own will, so it is told in Java's word for it, which nobody takes for a failure to try again.
 */
final class Lifetime {
    private final CountDownLatch over = new CountDownLatch(1);
    private final Set<Lifetime> parts = new HashSet<>();
    private volatile String why = "";

    /** Ends it and its parts, for what was said first. */
    synchronized void end(String reason) {
        if (why.isEmpty()) {
            why = reason;
            over.countDown();
            parts.forEach(part -> part.end(reason));
            parts.clear();
        }
    }

    /** One that ends with this one, or before; it is forgotten by {@link #forget}. */
    synchronized Lifetime part() {
        Lifetime part = new Lifetime();
        if (isOver()) {
            part.end(why);
        } else {
            parts.add(part);
        }
        return part;
    }

    synchronized void forget(Lifetime part) {
        parts.remove(part);
    }

    boolean isOver() {
        return !why.isEmpty();
    }

    void throwIfOver() {
        if (isOver()) {
            throw new CancellationException(why);
        }
        if (Context.current().isCancelled()) {
            throw new CancellationException("the gRPC context was cancelled");
        }
    }

    /** Waits for so many nanoseconds, unless it ends. */
    void pause(long nanos) {
        try {
            over.await(nanos, TimeUnit.NANOSECONDS);
        } catch (InterruptedException e) {
            throw interrupted();
        }
        throwIfOver();
    }

    /** Of a thread whose interrupt was noticed; its flag is kept. */
    static CancellationException interrupted() {
        Thread.currentThread().interrupt();
        return new CancellationException("the thread was interrupted");
    }
}
