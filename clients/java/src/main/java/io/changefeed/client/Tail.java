package io.changefeed.client;

import com.google.protobuf.Timestamp;
import io.changefeed.v1.ChangeBatch;
import io.changefeed.v1.ChangeEvent;
import io.changefeed.v1.ChildPartition;
import io.changefeed.v1.Closing;
import io.changefeed.v1.ClosingReason;
import io.changefeed.v1.FeedScope;
import io.changefeed.v1.Heartbeat;
import io.changefeed.v1.PartitionRetired;
import io.changefeed.v1.PortabilityWarning;
import io.changefeed.v1.ResourceAddress;
import io.changefeed.v1.SnapshotFinished;
import io.changefeed.v1.SnapshotProgress;
import io.changefeed.v1.StartPosition;
import io.changefeed.v1.SubscribeRequest;
import io.changefeed.v1.SubscribeResponse;
import io.changefeed.v1.SubscriptionOpened;
import io.changefeed.v1.SubscriptionState;
import io.grpc.ManagedChannel;
import java.time.Duration;
import java.time.Instant;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.Optional;
import java.util.concurrent.CancellationException;
import java.util.function.BiConsumer;

/**
 * A stream of changes that outlives connections: it watches heartbeats, reconnects and resumes.
 *
 * <p>It is iterated once, by one thread at a time, until {@code maxEvents} have come, the partition is retired or an
 * error is final. {@link #hasNext} waits for the next delivery. It throws a {@link ChangeFeedException} that is final, the
 * outage that outlasted patience, what the checkpoint threw, or a {@link CancellationException} when the tail or its
 * client was closed, the gRPC context cancelled, or the thread interrupted, whose flag it keeps. Asked again after it
 * threw, it goes on from its last token. Delivery is at least once: after a reconnect or a restart, events may come again
 * with the same event id.
 */
public final class Tail implements Iterable<Delivery>, Iterator<Delivery>, AutoCloseable {
    private final ChangeFeedClient client;
    private final SubscribeRequest.Builder request;
    private final Checkpoint checkpoint;
    private final String name;
    private final BiConsumer<RuntimeException, Duration> onReconnect;
    private final Outage outage;
    private final Seen seen;
    private final Lifetime lifetime = new Lifetime();

    // The reader's own.
    private boolean begun;
    private boolean ended;
    private boolean live;
    private long delivered;
    private String token = "";
    private String handled = "";
    private Delivery upcoming;

    // Changed by the reader, and looked at by who closes: both hold the lock.
    private SubscribeStream stream;
    /** Dialled anew when the client's connection was dead. */
    private ManagedChannel own;

    Tail(
            ChangeFeedClient client,
            ResourceAddress address,
            StartPosition start,
            FeedScope scope,
            Checkpoint checkpoint,
            TailOptions options) {
        this.client = client;
        this.checkpoint = checkpoint;
        name = scope != null && scope.hasPhysicalPartitionId() ? scope.getPhysicalPartitionId() : Checkpoint.WHOLE;
        onReconnect = options.onReconnect;
        outage = new Outage(options.patience);
        seen = new Seen(options.deduplicate);
        request = SubscribeRequest.newBuilder()
                .setAddress(address)
                .setStartPosition(start)
                .setNewItemStateMode(options.items)
                .setMaxBatchSize(options.maxBatchSize)
                .setMaxEvents(options.maxEvents);
        if (scope != null) {
            request.setScope(scope);
        }
        if (options.heartbeatInterval != null) {
            request.setHeartbeatInterval(Spans.message(options.heartbeatInterval));
        }
    }

    /**
     * The tail itself, for a loop.
     *
     * @throws IllegalStateException with a checkpoint, if a loop before was left: its last delivery may not be handled,
     *     and this loop's first step would save it. It comes again from another tail.
     */
    @Override
    public Iterator<Delivery> iterator() {
        if (checkpoint != null && !handled.isEmpty()) {
            throw new IllegalStateException(
                    "a loop over this tail was left: its last delivery comes again from another tail");
        }
        return this;
    }

    @Override
    public boolean hasNext() {
        if (upcoming == null) {
            save();
            begin();
            upcoming = advance();
        }
        return upcoming != null;
    }

    @Override
    public Delivery next() {
        if (!hasNext()) {
            throw new NoSuchElementException("the tail has ended");
        }
        Delivery delivery = upcoming;
        upcoming = null;
        handled = delivery.continuationToken();
        return delivery;
    }

    /** Leaves the stream; whoever waits for a delivery is thrown a CancellationException. Any thread may. */
    @Override
    public void close() {
        close("the tail was closed");
    }

    void close(String why) {
        lifetime.end(why);
        release();
    }

    private void save() {
        if (checkpoint != null && !handled.isEmpty()) {
            checkpoint.save(Map.of(name, handled));
        }
        handled = "";
    }

    private void begin() {
        if (!begun && checkpoint != null) {
            String saved = checkpoint.load().getOrDefault(name, "");
            if (!saved.isEmpty()) {
                request.setStartPosition(Positions.after(saved));
            }
        }
        begun = true;
    }

    /** The next delivery, or null at the end. */
    private Delivery advance() {
        while (!ended) {
            try {
                SubscribeResponse message = receive();
                outage.end();
                Delivery delivery = take(message);
                if (delivery != null) {
                    return delivery;
                }
            } catch (ChangeFeedException | StreamInterruptedException error) {
                hangUp();
                recover(error);
            } catch (InterruptedException e) {
                throw Lifetime.interrupted();
            }
        }
        release();
        return null;
    }

    /**
     * The next message, from a new stream if the last one broke. What every new stream says first is passed over when it
     * is not the first one: only what follows counts as progress that ends the growth of pauses.
     */
    private SubscribeResponse receive() throws InterruptedException {
        boolean reopening = stream == null && !token.isEmpty();
        open();
        SubscribeResponse message = stream.read();
        while (reopening && SubscribeStream.isPreamble(message)) {
            message = stream.read();
        }
        throwIfInterrupted(message);
        return message;
    }

    private void throwIfInterrupted(SubscribeResponse message) {
        String next = tokenOf(message);
        if (message.hasClosing() && !isFinal(message.getClosing().getReason())) {
            Closing closing = message.getClosing();
            if (!next.isEmpty()) {
                move(next);
            }
            String reason = closing.getReason() == ClosingReason.UNRECOGNIZED
                    ? String.valueOf(closing.getReasonValue())
                    : closing.getReason().name();
            Duration retryAfter = Spans.span(closing.getReconnectAfter());
            throw new StreamInterruptedException("closed by the gateway: " + reason, retryAfter, false);
        }
        if (next != null && next.isEmpty()) {
            throw new StreamInterruptedException("a message came without a token");
        }
    }

    /** The position after a message; null for one of a later contract. */
    private String tokenOf(SubscribeResponse message) {
        return switch (message.getContentCase()) {
            case OPENED -> message.getOpened().getContinuationToken();
            case BATCH -> message.getBatch().getContinuationToken();
            case HEARTBEAT -> message.getHeartbeat().getContinuationToken();
            case PARTITION_RETIRED -> message.getPartitionRetired().getContinuationToken();
            case SNAPSHOT_FINISHED -> message.getSnapshotFinished().getContinuationToken();
            case CLOSING -> message.getClosing().getContinuationToken();
            case STATE_CHANGED -> token;
            case CONTENT_NOT_SET -> null;
        };
    }

    /** Moves the position over a message and says what it brought; null for one of a later contract. */
    private Delivery take(SubscribeResponse message) {
        String next = tokenOf(message);
        if (next == null) {
            return null;
        }
        move(next);
        return switch (message.getContentCase()) {
            case OPENED -> {
                SubscriptionOpened opened = message.getOpened();
                Optional<Instant> expires = time(opened.hasTokenExpireTime(), opened.getTokenExpireTime());
                yield says(List.of(), expires, Optional.empty(), List.of(), null, opened.getWarningsList());
            }
            case BATCH -> takeBatch(message.getBatch());
            case HEARTBEAT -> {
                Heartbeat beat = message.getHeartbeat();
                yield says(
                        time(beat.hasTokenExpireTime(), beat.getTokenExpireTime()),
                        time(beat.hasWatermark(), beat.getWatermark()));
            }
            case PARTITION_RETIRED -> {
                PartitionRetired retired = message.getPartitionRetired();
                List<ChildPartition> children = retired.getChildPartitionsList();
                yield says(List.of(), Optional.empty(), Optional.empty(), children, null, List.of());
            }
            case SNAPSHOT_FINISHED -> {
                SnapshotFinished finished = message.getSnapshotFinished();
                Optional<Instant> expires = time(finished.hasTokenExpireTime(), finished.getTokenExpireTime());
                yield says(List.of(), expires, Optional.empty(), List.of(), finished.getSnapshot(), List.of());
            }
            case STATE_CHANGED -> {
                live = message.getStateChanged().getState() == SubscriptionState.SUBSCRIPTION_STATE_LIVE;
                yield says(Optional.empty(), Optional.empty());
            }
            case CLOSING -> {
                ended = true;
                yield says(Optional.empty(), Optional.empty());
            }
            case CONTENT_NOT_SET -> null;
        };
    }

    private Delivery takeBatch(ChangeBatch batch) {
        delivered += batch.getEventsCount();
        ended = request.getMaxEvents() > 0 && delivered >= request.getMaxEvents();
        return says(
                seen.fresh(batch.getEventsList()),
                time(batch.hasTokenExpireTime(), batch.getTokenExpireTime()),
                time(batch.hasWatermark(), batch.getWatermark()),
                List.of(),
                batch.hasSnapshot() ? batch.getSnapshot() : null,
                List.of());
    }

    private Delivery says(Optional<Instant> expires, Optional<Instant> watermark) {
        return says(List.of(), expires, watermark, List.of(), null, List.of());
    }

    private Delivery says(
            List<ChangeEvent> events,
            Optional<Instant> expires,
            Optional<Instant> watermark,
            List<ChildPartition> children,
            SnapshotProgress snapshot,
            List<PortabilityWarning> warnings) {
        return new Delivery(
                events, token, live, watermark, expires, children, Optional.ofNullable(snapshot), warnings);
    }

    private static Optional<Instant> time(boolean isThere, Timestamp at) {
        return isThere ? Optional.of(Spans.instant(at)) : Optional.empty();
    }

    private static boolean isFinal(ClosingReason reason) {
        return reason == ClosingReason.CLOSING_REASON_MAX_EVENTS
                || reason == ClosingReason.CLOSING_REASON_PARTITION_RETIRED;
    }

    private void move(String next) {
        token = next;
        request.setStartPosition(Positions.after(next));
    }

    /** Pauses before the next try. Throws the error when it is final or there will be no other try. */
    private void recover(RuntimeException error) {
        if (error instanceof StreamInterruptedException broken && broken.heartbeatMissed()) {
            // gRPC itself would use a dead connection again until a keepalive ping finds out.
            redial();
        }
        outage.sitOut(error, lifetime, onReconnect);
    }

    private synchronized void open() {
        lifetime.throwIfOver();
        if (stream == null) {
            SubscribeRequest.Builder next = request.clone();
            if (request.getMaxEvents() > 0) {
                next.setMaxEvents(request.getMaxEvents() - delivered);
            }
            ManagedChannel channel = own == null ? client.channel() : ChangeFeedClient.eager(own);
            stream = new SubscribeStream(channel, next.build());
        }
    }

    private synchronized void hangUp() {
        live = false;
        if (stream != null) {
            stream.close();
            stream = null;
        }
    }

    private synchronized void redial() {
        lifetime.throwIfOver();
        leave();
        own = client.dial();
    }

    private void leave() {
        if (own != null) {
            own.shutdownNow();
            own = null;
        }
    }

    private synchronized void release() {
        if (stream != null) {
            stream.close();
        }
        leave();
        client.forget(this);
    }
}
