package io.changefeed.client;

import io.changefeed.v1.ChangeFeedServiceGrpc;
import io.changefeed.v1.SubscribeRequest;
import io.changefeed.v1.SubscribeResponse;
import io.changefeed.v1.SubscriptionState;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** One call of Subscribe, with its watchdog. One thread reads; any may close. */
final class SubscribeStream implements AutoCloseable {
    /** How long a stream may take to send its first message. */
    private static final Duration OPENING = Duration.ofSeconds(20);

    private static final int MISSED_HEARTBEATS = 2;

    /** Messages that gRPC reads ahead of the reader: it decodes the next ones while one is handled. */
    private static final int AHEAD = 4;

    private final ClientCall<SubscribeRequest, SubscribeResponse> call;
    private final BlockingQueue<Arrival> arrived = new LinkedBlockingQueue<>();
    private Duration silence = OPENING;
    private long sequence;

    /** A message, or in its place the end of the stream. */
    private record Arrival(SubscribeResponse message, StatusRuntimeException end) {}

    SubscribeStream(Channel channel, SubscribeRequest request) {
        call = channel.newCall(ChangeFeedServiceGrpc.getSubscribeMethod(), CallOptions.DEFAULT);
        call.start(
                new ClientCall.Listener<>() {
                    @Override
                    public void onMessage(SubscribeResponse message) {
                        arrived.add(new Arrival(message, null));
                    }

                    @Override
                    public void onClose(Status status, Metadata trailers) {
                        arrived.add(new Arrival(null, status.asRuntimeException(trailers)));
                    }
                },
                new Metadata());
        call.sendMessage(request);
        call.halfClose();
        call.request(AHEAD);
    }

    /** Ends the stream; who waits for a message is told that it was cancelled. */
    @Override
    public void close() {
        call.cancel("the tail leaves the stream", null);
    }

    /** The next message. The watchdog runs only here: while the reader handles what came, silence is its own. */
    SubscribeResponse read() throws InterruptedException {
        Arrival arrival = arrived.poll(Spans.nanos(silence), TimeUnit.NANOSECONDS);
        if (arrival == null) {
            throw new StreamInterruptedException("nothing arrived for " + silence, Duration.ZERO, true);
        }
        if (arrival.end != null) {
            throw arrival.end.getStatus().isOk()
                    ? new StreamInterruptedException("the stream ended without saying why")
                    : ChangeFeedException.of(arrival.end);
        }
        call.request(1);
        check(arrival.message);
        return arrival.message;
    }

    private void check(SubscribeResponse message) {
        sequence++;
        if (message.getDeliverySequence() != sequence) {
            // What is missing in between is asked for again.
            throw new StreamInterruptedException(
                    "message " + message.getDeliverySequence() + " came where " + sequence + " was due");
        }
        if (message.hasOpened()) {
            Duration interval = Spans.span(message.getOpened().getHeartbeatInterval());
            silence = interval.isZero() ? OPENING : interval.multipliedBy(MISSED_HEARTBEATS);
        }
    }

    /** Whether a message is what every new stream says first. */
    static boolean isPreamble(SubscribeResponse message) {
        return message.hasOpened()
                || message.hasStateChanged()
                        && message.getStateChanged().getState() != SubscriptionState.SUBSCRIPTION_STATE_LIVE;
    }
}
