package io.changefeed.client;

import java.time.Duration;

/**
 * A stream that broke without an error of the gateway: silence, an end without farewell, a message that cannot be, or a
 * farewell. The tail opens it again, so it is thrown only when patience ends.
 */
public final class StreamInterruptedException extends RuntimeException {
    private final Duration retryAfter;
    private final boolean heartbeatMissed;

    StreamInterruptedException(String message) {
        this(message, Duration.ZERO, false);
    }

    StreamInterruptedException(String message, Duration retryAfter, boolean heartbeatMissed) {
        super(message);
        this.retryAfter = retryAfter;
        this.heartbeatMissed = heartbeatMissed;
    }

    /** How long the gateway asks to wait first; zero if it does not. */
    public Duration retryAfter() {
        return retryAfter;
    }

    /** Whether nothing arrived for two heartbeat intervals: the connection is dead, whatever it says. */
    public boolean heartbeatMissed() {
        return heartbeatMissed;
    }
}
