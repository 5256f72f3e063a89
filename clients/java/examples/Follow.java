import static io.changefeed.client.Positions.beginning;
import static io.changefeed.client.Positions.collection;

import io.changefeed.client.ChangeFeedClient;
import io.changefeed.client.FileCheckpoint;
import io.changefeed.client.TailOptions;
import java.nio.file.Path;

class Follow {
    public static void main(String[] arguments) {
        var place = new TailOptions()
                .checkpoint(new FileCheckpoint(Path.of("place.json")))
                .onReconnect((error, pause) -> System.err.println("again in " + pause.toMillis() + " ms: " + error.getMessage()));
        try (var client = ChangeFeedClient.connect("127.0.0.1:50051");
                var tail = client.tail(collection("main/documents"), beginning(), place)) {
            for (var delivery : tail) {
                for (var event : delivery.events()) {
                    System.out.println(event.getChangeType() + " " + event.getKey().getPartitionKey() + " " + event.getNewItemJson());
                }
            }
        }
    }
}
