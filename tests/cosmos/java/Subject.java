// The Java SDK, unmodified, in gateway mode at the other end of a pipe: each line on standard input is a command, answered
// by one line. Arguments: endpoint, key, database, container.

import com.azure.cosmos.CosmosClient;
import com.azure.cosmos.CosmosClientBuilder;
import com.azure.cosmos.CosmosContainer;
import com.azure.cosmos.CosmosException;
import com.azure.cosmos.models.CosmosBatch;
import com.azure.cosmos.models.CosmosChangeFeedRequestOptions;
import com.azure.cosmos.models.CosmosItemRequestOptions;
import com.azure.cosmos.models.CosmosQueryRequestOptions;
import com.azure.cosmos.models.FeedRange;
import com.azure.cosmos.models.FeedResponse;
import com.azure.cosmos.models.PartitionKey;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Instant;

public class Subject {
  static final ObjectMapper JSON = new ObjectMapper();

  public static void main(String[] arguments) throws Exception {
    try (CosmosClient client =
        new CosmosClientBuilder()
            .endpoint(arguments[0])
            .key(arguments[1])
            .gatewayMode()
            .contentResponseOnWriteEnabled(true)
            .buildClient()) {
      CosmosContainer container = client.getDatabase(arguments[2]).getContainer(arguments[3]);
      BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
      for (String line = input.readLine(); line != null; line = input.readLine()) {
        ObjectNode answer = JSON.createObjectNode();
        try {
          answer.set("result", carryOut(container, JSON.readTree(line)));
        } catch (CosmosException error) {
          answer
              .putObject("error")
              .put("code", error.getStatusCode())
              .put("substatus", error.getSubStatusCode())
              .put("message", error.getShortMessage());
        }
        System.out.println(answer);
      }
    }
  }

  static JsonNode carryOut(CosmosContainer container, JsonNode asked) {
    switch (asked.get("command").asText()) {
      case "drain":
        return drain(container, asked);
      case "create":
        return container.createItem((ObjectNode) asked.get("item")).getItem();
      case "upsert":
        return container.upsertItem((ObjectNode) asked.get("item")).getItem();
      case "delete":
        container.deleteItem(asked.get("id").asText(), key(asked), new CosmosItemRequestOptions());
        return null;
      case "batch":
        CosmosBatch batch = CosmosBatch.createCosmosBatch(key(asked));
        asked.get("items").forEach(batch::upsertItemOperation);
        return JSON.getNodeFactory().numberNode(container.executeCosmosBatch(batch).getStatusCode());
      case "point":
        return container.readItem(asked.get("id").asText(), key(asked), JsonNode.class).getItem();
      case "query":
        ArrayNode found = JSON.createArrayNode();
        container
            .queryItems(asked.get("query").asText(), new CosmosQueryRequestOptions(), JsonNode.class)
            .forEach(found::add);
        return found;
      case "ranges":
        ArrayNode ranges = JSON.createArrayNode();
        container.getFeedRanges().forEach(range -> ranges.add(range.toString()));
        return ranges;
      default:
        throw new IllegalArgumentException(asked.toString());
    }
  }

  // Everything up to the first page without changes, and where to go on from there.
  static JsonNode drain(CosmosContainer container, JsonNode asked) {
    CosmosChangeFeedRequestOptions options = options(asked);
    if (asked.has("page")) {
      options.setMaxItemCount(asked.get("page").asInt());
    }
    ObjectNode result = JSON.createObjectNode();
    ArrayNode documents = result.putArray("documents");
    for (FeedResponse<JsonNode> page : container.queryChangeFeed(options, JsonNode.class).iterableByPage()) {
      page.getResults().forEach(documents::add);
      result.put("continuation", page.getContinuationToken());
      if (page.getResults().isEmpty()) {
        break;
      }
    }
    return result;
  }

  static CosmosChangeFeedRequestOptions options(JsonNode asked) {
    FeedRange range = asked.has("partitionKey") ? FeedRange.forLogicalPartition(key(asked)) : FeedRange.forFullRange();
    CosmosChangeFeedRequestOptions options;
    switch (asked.get("start").asText()) {
      case "now":
        options = CosmosChangeFeedRequestOptions.createForProcessingFromNow(range);
        break;
      case "beginning":
        options = CosmosChangeFeedRequestOptions.createForProcessingFromBeginning(range);
        break;
      case "time":
        Instant time = Instant.ofEpochMilli(asked.get("time").asLong());
        options = CosmosChangeFeedRequestOptions.createForProcessingFromPointInTime(time, range);
        break;
      default:
        // It knows its mode.
        return CosmosChangeFeedRequestOptions.createForProcessingFromContinuation(asked.get("continuation").asText());
    }
    return asked.get("mode").asText().equals("AllVersionsAndDeletes") ? options.allVersionsAndDeletes() : options;
  }

  static PartitionKey key(JsonNode asked) {
    return new PartitionKey(asked.get("partitionKey").asText());
  }
}
