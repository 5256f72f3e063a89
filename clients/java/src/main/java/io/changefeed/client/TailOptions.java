package io.changefeed.client;

import io.changefeed.v1.FeedScope;
import io.changefeed.v1.NewItemStateMode;
import java.time.Duration;
import java.util.Set;
import java.util.function.BiConsumer;

/** How a tail reads. A tail takes what is set when it is made. */
public final class TailOptions {
    FeedScope scope;
    NewItemStateMode items = NewItemStateMode.NEW_ITEM_STATE_MODE_UNSPECIFIED;
    int maxBatchSize;
    Duration heartbeatInterval;
    long maxEvents;
    Duration patience;
    Checkpoint checkpoint;
    int deduplicate;
    Set<String> only = Set.of();
    BiConsumer<RuntimeException, Duration> onReconnect = (error, pause) -> {};

    /** Reads a part of the collection. */
    public TailOptions scope(FeedScope part) {
        scope = part;
        return this;
    }

    /** Says whether events carry the item after the change. */
    public TailOptions items(NewItemStateMode mode) {
        items = mode;
        return this;
    }

    /** Bounds the events of a batch. */
    public TailOptions maxBatchSize(int most) {
        maxBatchSize = most;
        return this;
    }

    /** Asks for a heartbeat after so long a silence; after two that did not come the stream is opened again. */
    public TailOptions heartbeatInterval(Duration interval) {
        heartbeatInterval = interval;
        return this;
    }

    /** Ends the tail after so many events, reconnects included. */
    public TailOptions maxEvents(long most) {
        maxEvents = most;
        return this;
    }

    /** Bounds an outage, from its first failure on; without it a tail, or a reader of partitions, tries for ever. */
    public TailOptions patience(Duration longest) {
        patience = longest;
        return this;
    }

    /**
     * Starts at the saved position, or at the start if there is none, and saves each delivery's token when the next one
     * is asked for: the loop's body, or the handler, is then done with it. A loop that is left saves nothing of its last
     * delivery, which comes again from another tail; a second loop over the same one is an IllegalStateException.
     */
    public TailOptions checkpoint(Checkpoint positions) {
        checkpoint = positions;
        return this;
    }

    /**
     * Leaves out events that are among the last so many by their id. Redelivery follows a reconnect; after a restart the
     * window is empty, so work that must not be done twice is saved in one transaction with the token.
     */
    public TailOptions deduplicate(int last) {
        deduplicate = last;
        return this;
    }

    /**
     * For {@link ChangeFeedClient#readPartitions}: begins with these physical partitions in place of all. Other processes
     * may read the others, each with a checkpoint of its own; a child whose parents two of them read waits for its own
     * reader's only. One that the collection does not have is NOT_FOUND.
     */
    public TailOptions only(Set<String> partitionIds) {
        only = Set.copyOf(partitionIds);
        return this;
    }

    /**
     * Is told of every interruption and of the pause before the next try: a stream is opened again, or a reader of
     * partitions lists or fixes them again. Those of several partitions call it at the same time.
     */
    public TailOptions onReconnect(BiConsumer<RuntimeException, Duration> told) {
        onReconnect = told;
        return this;
    }
}
