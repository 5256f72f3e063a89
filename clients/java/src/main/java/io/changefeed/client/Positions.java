package io.changefeed.client;

import io.changefeed.v1.Beginning;
import io.changefeed.v1.FeedScope;
import io.changefeed.v1.Now;
import io.changefeed.v1.ResourceAddress;
import io.changefeed.v1.Snapshot;
import io.changefeed.v1.StartPosition;
import java.time.Instant;

/** Where to read, and from where on; made to be imported statically. */
public final class Positions {
    private Positions() {}

    /** Starts at the oldest retained change. */
    public static StartPosition beginning() {
        return StartPosition.newBuilder().setBeginning(Beginning.getDefaultInstance()).build();
    }

    /** Starts with what is committed after the gateway's first answer. */
    public static StartPosition now() {
        return StartPosition.newBuilder().setNow(Now.getDefaultInstance()).build();
    }

    /**
     * Starts with the items that exist, as events of CHANGE_TYPE_SNAPSHOT, and goes on with the changes. It is gated by
     * the capability CHANGE_FEED_SNAPSHOT.
     */
    public static StartPosition snapshot() {
        return StartPosition.newBuilder().setSnapshot(Snapshot.getDefaultInstance()).build();
    }

    /** Starts with every change committed at or after a time, and possibly some from shortly before. */
    public static StartPosition atTime(Instant time) {
        return StartPosition.newBuilder().setAtTime(Spans.message(time)).build();
    }

    /** Starts after the position of a token from any earlier answer. */
    public static StartPosition after(String continuationToken) {
        return StartPosition.newBuilder().setContinuationToken(continuationToken).build();
    }

    /**
     * The address of {@code connection/collection}.
     *
     * @throws IllegalArgumentException if it has not two names
     */
    public static ResourceAddress collection(String path) {
        int slash = path.indexOf('/');
        if (slash <= 0 || slash == path.length() - 1) {
            throw new IllegalArgumentException("not connection/collection: " + path);
        }
        return ResourceAddress.newBuilder()
                .setConnection(path.substring(0, slash))
                .setCollection(path.substring(slash + 1))
                .build();
    }

    /** The scope of one physical partition. */
    public static FeedScope physicalPartition(String id) {
        return FeedScope.newBuilder().setPhysicalPartitionId(id).build();
    }

    /** The scope of one logical partition, named by the text of {@code ChangeEvent.key.partition_key}. */
    public static FeedScope logicalPartition(String partitionKey) {
        return FeedScope.newBuilder().setLogicalPartition(partitionKey).build();
    }
}
