package io.changefeed.client;

import com.google.protobuf.Timestamp;
import java.time.DateTimeException;
import java.time.Duration;
import java.time.Instant;

/** Lengths and points of time between the messages and Java. */
final class Spans {
    /** Whatever is longer is for ever; it fits into a long of nanoseconds, also a few times. */
    private static final Duration LONGEST = Duration.ofDays(10_000);

    private Spans() {}

    /** A length of time as it can be waited for: a negative one is none, one beyond any calendar is its end. */
    static Duration span(com.google.protobuf.Duration duration) {
        long seconds = Math.min(Math.max(duration.getSeconds(), 0), LONGEST.toSeconds());
        return Duration.ofSeconds(seconds, Math.max(duration.getNanos(), 0));
    }

    static com.google.protobuf.Duration message(Duration span) {
        return com.google.protobuf.Duration.newBuilder()
                .setSeconds(span.getSeconds())
                .setNanos(span.getNano())
                .build();
    }

    /** Nanoseconds, none of a negative length. */
    static long nanos(Duration span) {
        return span.isNegative() ? 0 : (span.compareTo(LONGEST) > 0 ? LONGEST : span).toNanos();
    }

    /** A time; the nearest that Java has for one beyond its calendar. */
    static Instant instant(Timestamp at) {
        try {
            return Instant.ofEpochSecond(at.getSeconds(), at.getNanos());
        } catch (DateTimeException | ArithmeticException e) {
            return at.getSeconds() < 0 ? Instant.MIN : Instant.MAX;
        }
    }

    static Timestamp message(Instant at) {
        return Timestamp.newBuilder()
                .setSeconds(at.getEpochSecond())
                .setNanos(at.getNano())
                .build();
    }
}
