package io.changefeed.client;

import java.time.Duration;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.BiConsumer;

/**
 * When to try again, and when not. It begins with the first failure: the time that a healthy stream had nothing to say
 * before it is no part of it. All times are nanoseconds.
 */
final class Outage {
    private static final long FIRST_PAUSE = TimeUnit.MILLISECONDS.toNanos(100);
    private static final long LONGEST_PAUSE = TimeUnit.SECONDS.toNanos(15);

    /** Nobody who asks for a day can mean it of a stream. */
    private static final long LONGEST_ASKED = TimeUnit.MINUTES.toNanos(10);

    /** Part that is added at random to a pause the gateway asks for, so that clients do not return all at once. */
    private static final double JITTER = 0.2;

    /** More would overflow, and the longest pause is reached long before. */
    private static final int MOST_DOUBLINGS = 30;

    private final long patience;
    private long began;
    private int attempts;

    /** Without patience it lasts for ever. */
    Outage(Duration patience) {
        this.patience = patience == null ? Long.MAX_VALUE : Spans.nanos(patience);
    }

    /** What came is progress. */
    void end() {
        attempts = 0;
    }

    /** Waits before the next try. Throws the error when it is final or there will be no other try. */
    void sitOut(RuntimeException error, Lifetime lifetime, BiConsumer<RuntimeException, Duration> told) {
        lifetime.throwIfOver();
        long pause = pause(error, System.nanoTime());
        told.accept(error, Duration.ofNanos(pause));
        lifetime.pause(pause);
    }

    /** The pause before the next try. Throws the error when it is final or there will be no other try. */
    long pause(RuntimeException error, long now) {
        if (attempts == 0) {
            began = now;
        }
        attempts++;
        long asked = Math.min(Spans.nanos(retryAfter(error)), LONGEST_ASKED);
        long left = patience - (now - began);
        if (!isRetryable(error) || left <= 0 || asked > left) {
            end();
            throw error;
        }
        return pause(asked, left);
    }

    /** Grows from try to try and is never shorter than asked; patience bounds it, so that the last try is at its end. */
    private long pause(long asked, long left) {
        ThreadLocalRandom random = ThreadLocalRandom.current();
        long ceiling = Math.min(LONGEST_PAUSE, FIRST_PAUSE << Math.min(attempts - 1, MOST_DOUBLINGS));
        double pause = Math.max(random.nextDouble() * ceiling, asked * (1 + random.nextDouble() * JITTER));
        return Math.min((long) pause, Math.max(asked, left));
    }

    private static boolean isRetryable(RuntimeException error) {
        return error instanceof StreamInterruptedException
                || error instanceof ChangeFeedException failed && failed.retryable();
    }

    private static Duration retryAfter(RuntimeException error) {
        if (error instanceof StreamInterruptedException interrupted) {
            return interrupted.retryAfter();
        }
        return error instanceof ChangeFeedException failed ? failed.retryAfter() : Duration.ZERO;
    }
}
