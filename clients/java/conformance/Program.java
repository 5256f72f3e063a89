import static io.changefeed.client.Positions.after;
import static io.changefeed.client.Positions.beginning;
import static io.changefeed.client.Positions.collection;
import static io.changefeed.client.Positions.now;
import static io.changefeed.client.Positions.snapshot;

import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.changefeed.client.ChangeFeedClient;
import io.changefeed.client.ChangeFeedException;
import io.changefeed.client.Checkpoint;
import io.changefeed.client.ConnectOptions;
import io.changefeed.client.Delivery;
import io.changefeed.client.FileCheckpoint;
import io.changefeed.client.Items;
import io.changefeed.client.MemoryCheckpoint;
import io.changefeed.client.StreamInterruptedException;
import io.changefeed.client.Tail;
import io.changefeed.client.TailOptions;
import io.changefeed.v1.ChangeEvent;
import io.changefeed.v1.KeyComponent;
import io.changefeed.v1.PortabilityWarning;
import io.changefeed.v1.ReadChangesRequest;
import io.changefeed.v1.ReadChangesResponse;
import io.changefeed.v1.ResourceAddress;
import io.changefeed.v1.SnapshotProgress;
import io.changefeed.v1.StartPosition;
import io.grpc.TlsChannelCredentials;
import java.io.File;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/** The Java client's program for the conformance run: see docs/clients.md in the repository. */
final class Program {
    private static final ObjectMapper JSON = new ObjectMapper();

    /** What an argument holds; they are carried out one after the other. */
    record Order(
            String target,
            String collection,
            String call,
            String start,
            String after,
            String checkpoint,
            Set<String> only,
            @JsonProperty("handle_ms") long handleMs,
            @JsonProperty("heartbeat_ms") long heartbeatMs,
            @JsonProperty("patience_ms") Long patienceMs,
            @JsonProperty("max_events") long maxEvents,
            @JsonProperty("max_batch_size") int maxBatchSize,
            int deduplicate,
            String roots,
            String bearer) {}

    private final Order order;
    private final ChangeFeedClient client;
    private final ResourceAddress address;

    private Program(Order order, ChangeFeedClient client) {
        this.order = order;
        this.client = client;
        address = collection(order.collection);
    }

    public static void main(String[] arguments) throws IOException {
        for (String argument : arguments) {
            run(JSON.readValue(argument, Order.class));
        }
    }

    private static void run(Order order) throws IOException {
        try (ChangeFeedClient client = connect(order)) {
            new Program(order, client).carryOut();
            say("end", true);
        } catch (ChangeFeedException e) {
            Map<String, Object> error = error(e.categoryName(), e.reason(), e.retryable());
            error.put("provider", e.provider());
            error.put("request_id", e.requestId());
            say("error", error);
        } catch (StreamInterruptedException e) {
            say("error", error("INTERRUPTED", e.getMessage(), true));
        }
    }

    private static Map<String, Object> error(String category, String reason, boolean retryable) {
        return new HashMap<>(Map.of("category", category, "reason", reason, "retryable", retryable));
    }

    private static ChangeFeedClient connect(Order order) throws IOException {
        ConnectOptions options = new ConnectOptions();
        if (order.roots != null) {
            options.tls(TlsChannelCredentials.newBuilder()
                    .trustManager(new File(order.roots))
                    .build());
        }
        if (order.bearer != null) {
            options.bearer(() -> order.bearer);
        }
        return ChangeFeedClient.connect(order.target, options);
    }

    private void carryOut() {
        switch (order.call) {
            case "tail" -> tail();
            case "drain" -> drain();
            case "page" -> page();
            case "partitions" -> {
                Checkpoint checkpoint = order.checkpoint == null ? new MemoryCheckpoint() : file();
                TailOptions options = options().only(order.only == null ? Set.of() : order.only);
                client.readPartitions(address, start(), checkpoint, options, this::handle);
            }
            default -> throw new IllegalArgumentException("no such call: " + order.call);
        }
    }

    private void tail() {
        TailOptions options = options().maxEvents(order.maxEvents);
        if (order.checkpoint != null) {
            options.checkpoint(file());
        }
        try (Tail tail = client.tail(address, start(), options)) {
            for (Delivery delivery : tail) {
                handle("", delivery);
            }
        }
    }

    private void drain() {
        long began = System.nanoTime();
        long events = 0;
        try (Tail tail = client.tail(address, start(), new TailOptions().maxEvents(order.maxEvents))) {
            for (Delivery delivery : tail) {
                events += delivery.events().size();
            }
        }
        say("drained", Map.of("events", events, "seconds", (System.nanoTime() - began) / 1e9));
    }

    private void page() {
        ReadChangesResponse page = client.readPage(ReadChangesRequest.newBuilder()
                .setAddress(address)
                .setStartPosition(start())
                .build());
        Optional<Instant> none = Optional.empty();
        Optional<SnapshotProgress> snapshot = page.hasSnapshot() ? Optional.of(page.getSnapshot()) : Optional.empty();
        handle("", new Delivery(
                page.getEventsList(),
                page.getContinuationToken(),
                false,
                none,
                none,
                List.of(),
                snapshot,
                page.getWarningsList()));
    }

    private StartPosition start() {
        return switch (order.start) {
            case "beginning" -> beginning();
            case "now" -> now();
            case "snapshot" -> snapshot();
            case "after" -> after(order.after);
            default -> throw new IllegalArgumentException("no such start: " + order.start);
        };
    }

    private FileCheckpoint file() {
        return new FileCheckpoint(Path.of(order.checkpoint));
    }

    private TailOptions options() {
        TailOptions options = new TailOptions()
                .deduplicate(order.deduplicate)
                .maxBatchSize(order.maxBatchSize)
                .onReconnect((error, pause) -> say(
                        "reconnect", Map.of("message", String.valueOf(error.getMessage()), "pause_ms", pause.toMillis())));
        if (order.heartbeatMs > 0) {
            options.heartbeatInterval(Duration.ofMillis(order.heartbeatMs));
        }
        if (order.patienceMs != null) {
            options.patience(Duration.ofMillis(order.patienceMs));
        }
        return options;
    }

    private void handle(String partition, Delivery delivery) {
        Map<String, Object> said = new HashMap<>();
        said.put("token", delivery.continuationToken());
        said.put("live", delivery.live());
        said.put("partition", partition);
        said.put("snapshot", delivery.snapshot().map(Program::told).orElse(null));
        said.put("warnings", delivery.warnings().stream().map(PortabilityWarning::getCode).toList());
        said.put("events", delivery.events().stream().map(Program::told).toList());
        say("delivery", said);
        if (!delivery.events().isEmpty()) {
            sleep(order.handleMs);
        }
    }

    private static Map<String, Object> told(SnapshotProgress progress) {
        return Map.of("items", progress.getItems(), "finished", progress.getFinished());
    }

    private static Map<String, Object> told(ChangeEvent event) {
        Map<String, Object> said = new HashMap<>();
        said.put("id", event.getEventId());
        said.put("type", event.getChangeTypeValue());
        said.put("state", event.getItemStateValue());
        said.put("partition_key", event.getKey().getPartitionKey());
        said.put("key", event.getKey().getComponentsList().stream().map(KeyComponent::getValue).toList());
        said.put("item", item(event.getNewItemJson()));
        return said;
    }

    /** Parsed and written again: it must still have every digit. */
    private static String item(String text) {
        try {
            return text.isEmpty() ? null : Items.parse(text).toString();
        } catch (JsonProcessingException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static void sleep(long milliseconds) {
        try {
            Thread.sleep(milliseconds);
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    private static synchronized void say(String what, Object content) {
        try {
            byte[] line = JSON.writeValueAsBytes(Map.of(what, content));
            System.out.write(line, 0, line.length);
            System.out.write('\n');
            System.out.flush();
        } catch (JsonProcessingException e) {
            throw new UncheckedIOException(e);
        }
    }
}
