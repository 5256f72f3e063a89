package io.changefeed.client;

import io.changefeed.v1.ChangeEvent;
import io.changefeed.v1.ChildPartition;
import io.changefeed.v1.PortabilityWarning;
import io.changefeed.v1.SnapshotProgress;
import java.time.Instant;
import java.util.List;
import java.util.Optional;

/**
 * What one message of a stream brought. Handle the events, then save the token: a restart goes on after them.
 *
 * @param events in order for every key; none for a heartbeat and the like
 * @param continuationToken never empty
 * @param live whether everything that was there has been delivered, and changes arrive as they are committed
 * @param watermark everything committed before it has been delivered, where the provider can tell
 * @param tokenExpireTime when the token is expected to lose its history, where the retention is known
 * @param children the partitions to go on with when the one that was read is retired; the tail ends then
 * @param snapshot how far the snapshot has come, in a delivery of one; finished in the one that ends it, which has no
 *     events
 * @param warnings where this collection differs from what portable code expects, in the first delivery of a tail; empty
 *     in all others
 */
public record Delivery(
        List<ChangeEvent> events,
        String continuationToken,
        boolean live,
        Optional<Instant> watermark,
        Optional<Instant> tokenExpireTime,
        List<ChildPartition> children,
        Optional<SnapshotProgress> snapshot,
        List<PortabilityWarning> warnings) {}
