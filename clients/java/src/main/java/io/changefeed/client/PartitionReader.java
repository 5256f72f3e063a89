package io.changefeed.client;

import io.changefeed.v1.ChildPartition;
import io.changefeed.v1.PhysicalPartition;
import io.changefeed.v1.ResourceAddress;
import io.changefeed.v1.StartPosition;
import io.grpc.Context;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorCompletionService;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.function.BiConsumer;
import java.util.function.Supplier;

/** Reads the physical partitions of a collection in parallel, children after all their parents. */
final class PartitionReader {
    private final ChangeFeedClient client;
    private final ResourceAddress address;
    private final Checkpoint checkpoint;
    private final TailOptions options;
    private final BiConsumer<String, Delivery> handler;

    /** Of partitions that are not read to their end; what is in none is finished or to come. */
    private Map<String, String> positions = new HashMap<>();

    private final Map<String, List<String>> parents = new HashMap<>();
    private final Map<String, Tail> running = new HashMap<>();

    private final Lifetime lifetime;

    /** Under way beside the partitions that are read. */
    private final List<Future<End>> listings = new ArrayList<>();

    /** Of a partition: what was listed because a parent of a child is unknown, or null where nobody has looked yet. */
    private record End(String id, List<ChildPartition> children, List<PhysicalPartition> listed) {}

    PartitionReader(
            ChangeFeedClient client,
            ResourceAddress address,
            Checkpoint checkpoint,
            TailOptions options,
            BiConsumer<String, Delivery> handler) {
        this.client = client;
        this.address = address;
        this.checkpoint = checkpoint;
        this.options = options;
        this.handler = handler;
        lifetime = client.lifetime().part();
    }

    void run(StartPosition start) {
        try {
            begin(start);
            readAll();
        } finally {
            client.lifetime().forget(lifetime);
        }
    }

    private void readAll() {
        ExecutorService threads = Executors.newCachedThreadPool(PartitionReader::thread);
        try {
            ExecutorCompletionService<End> reading =
                    new ExecutorCompletionService<>(Context.currentContextExecutor(threads));
            while (!positions.isEmpty()) {
                startReady(reading);
                End end = next(reading);
                learn(end);
                if (end.listed == null && !knowsParents(end)) {
                    // Beside the others: one that fails meanwhile ends all.
                    listings.add(reading.submit(() -> new End(end.id, end.children, list())));
                } else {
                    running.remove(end.id);
                    retire(end);
                }
            }
        } finally {
            lifetime.end("the partitions are read no more");
            running.values().forEach(Tail::close);
            listings.forEach(listing -> listing.cancel(true));
            finish(threads);
        }
    }

    /** Finds the positions: those saved, or those of the start in every partition, fixed before anything is read. */
    private void begin(StartPosition start) {
        positions.putAll(checkpoint.load());
        boolean isFirst = positions.isEmpty();
        learn(list());
        if (!isFirst) {
            return;
        }
        // One that nobody has is the gateway's to refuse; passed over, it would look like one that is finished.
        for (String id : options.only.isEmpty() ? parents.keySet() : options.only) {
            positions.put(id, resolved(id, start));
        }
        checkpoint.save(positions);
    }

    private String resolved(String id, StartPosition start) {
        return answer(() -> client.resolve(address, start, Positions.physicalPartition(id)))
                .getContinuationToken();
    }

    private List<PhysicalPartition> list() {
        return answer(() -> client.partitions(address));
    }

    private void learn(List<PhysicalPartition> listed) {
        listed.forEach(
                partition -> parents.putIfAbsent(partition.getPartitionId(), partition.getParentPartitionIdsList()));
    }

    private void learn(End end) {
        end.children.forEach(child -> parents.put(child.getPartitionId(), child.getParentPartitionIdsList()));
        if (end.listed != null) {
            learn(end.listed);
        }
    }

    private boolean knowsParents(End end) {
        return end.children.stream()
                .flatMap(child -> child.getParentPartitionIdsList().stream())
                .allMatch(parents::containsKey);
    }

    /** What a call answers; an outage is waited for as a tail does. */
    private <T> T answer(Supplier<T> call) {
        Outage outage = new Outage(options.patience);
        while (true) {
            try {
                return call.get();
            } catch (ChangeFeedException error) {
                outage.sitOut(error, lifetime, options.onReconnect);
            }
        }
    }

    /** Whether any ancestor is still read: a parent may be one that its own parents have yet to name. */
    private boolean isWaiting(String id) {
        Set<String> seen = new HashSet<>();
        Deque<String> ancestors = new ArrayDeque<>(parents.getOrDefault(id, List.of()));
        while (!ancestors.isEmpty()) {
            String ancestor = ancestors.pop();
            if (positions.containsKey(ancestor)) {
                return true;
            }
            if (seen.add(ancestor)) {
                ancestors.addAll(parents.getOrDefault(ancestor, List.of()));
            }
        }
        return false;
    }

    private void startReady(ExecutorCompletionService<End> reading) {
        positions.forEach((id, token) -> {
            if (!running.containsKey(id) && !isWaiting(id)) {
                Tail tail = client.tail(
                        address, Positions.after(token), Positions.physicalPartition(id), null, options);
                running.put(id, tail);
                reading.submit(() -> read(id, tail));
            }
        });
        if (running.isEmpty()) {
            throw new IllegalStateException("the partitions wait for each other");
        }
    }

    /** Follows one partition to its end. */
    private End read(String id, Tail tail) {
        List<ChildPartition> children = new ArrayList<>();
        try (tail) {
            for (Delivery delivery : tail) {
                handler.accept(id, delivery);
                checkpoint.save(Map.of(id, delivery.continuationToken()));
                children.addAll(delivery.children());
            }
        }
        return new End(id, children, null);
    }

    /** Puts the children in the place of a partition, in one step, so that a crash leaves the one or the others. */
    private void retire(End end) {
        Map<String, String> changes = new HashMap<>();
        changes.put(end.id, "");
        for (ChildPartition child : end.children) {
            // Another parent, or the first listing, may have named it already.
            if (!positions.containsKey(child.getPartitionId())) {
                changes.put(child.getPartitionId(), child.getContinuationToken());
            }
        }
        positions = Checkpoint.changed(positions, changes);
        checkpoint.save(changes);
    }

    /** Waits for the next partition that is read to its end; throws what its reader threw. */
    private static End next(ExecutorCompletionService<End> reading) {
        try {
            return reading.take().get();
        } catch (InterruptedException e) {
            throw Lifetime.interrupted();
        } catch (ExecutionException e) {
            if (e.getCause() instanceof Error error) {
                throw error;
            }
            throw e.getCause() instanceof RuntimeException failure ? failure : new IllegalStateException(e.getCause());
        }
    }

    /** Waits for the handlers that still work: nobody is told of a delivery after the call has returned. */
    private static void finish(ExecutorService threads) {
        threads.shutdown();
        boolean interrupted = false;
        boolean ended = false;
        while (!ended) {
            try {
                ended = threads.awaitTermination(1, TimeUnit.DAYS);
            } catch (InterruptedException e) {
                interrupted = true;
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    private static Thread thread(Runnable work) {
        Thread thread = new Thread(work, "changefeed-partition");
        thread.setDaemon(true);
        return thread;
    }
}
