import static io.changefeed.client.Positions.after;
import static io.changefeed.client.Positions.beginning;
import static io.changefeed.client.Positions.collection;
import static io.changefeed.client.Positions.snapshot;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import io.changefeed.client.Category;
import io.changefeed.client.ChangeFeedClient;
import io.changefeed.client.ChangeFeedException;
import io.changefeed.client.Delivery;
import io.changefeed.client.Tail;
import io.changefeed.client.TailOptions;
import io.changefeed.v1.ChangeEvent;
import io.changefeed.v1.ChangeType;
import io.changefeed.v1.ItemState;
import io.changefeed.v1.Key;
import io.changefeed.v1.KeyComponent;
import io.changefeed.v1.KeyType;
import io.changefeed.v1.ResourceAddress;
import io.changefeed.v1.StartPosition;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;

/**
 * Keeps a local copy of a collection in SQLite: the items that are there, then every change. It takes the collection, such
 * as main/documents, and the file.
 *
 * <p>Stop it with Ctrl-C or a kill and start it again: rows and token are written in one transaction, so the copy ends
 * equal to the source whatever happened in between. CHANGEFEED_TARGET names another gateway than 127.0.0.1:50051.
 */
class Mirror {
    private final Connection database;

    Mirror(Connection database) throws SQLException {
        this.database = database;
        run("create table if not exists items (key text primary key, item text not null)");
        run("create table if not exists place (token text not null)");
        database.setAutoCommit(false);
    }

    public static void main(String[] arguments) throws SQLException {
        String target = System.getenv().getOrDefault("CHANGEFEED_TARGET", "127.0.0.1:50051");
        try (Connection database = DriverManager.getConnection("jdbc:sqlite:" + arguments[1]);
                ChangeFeedClient client = ChangeFeedClient.connect(target)) {
            new Mirror(database).follow(client, collection(arguments[0]));
        } catch (ChangeFeedException e) {
            boolean lost = e.category() == Category.CHECKPOINT_EXPIRED;
            System.err.println(e.getMessage());
            System.err.print(lost ? "changes are lost to this mirror: remove its file to copy anew\n" : "");
            System.exit(1);
        }
    }

    private void follow(ChangeFeedClient client, ResourceAddress address) throws SQLException {
        String token = token();
        StartPosition start = token == null ? firstPosition(client, address) : after(token);
        TailOptions options = new TailOptions()
                .onReconnect((error, pause) -> System.err.println("again in " + pause.toMillis() + " ms: " + error.getMessage()));
        try (Tail tail = client.tail(address, start, options)) {
            for (Delivery delivery : tail) {
                // One transaction: the work and the token that says it is done.
                for (ChangeEvent event : delivery.events()) {
                    apply(event);
                }
                run("delete from place");
                run("insert into place values (?)", delivery.continuationToken());
                database.commit();
            }
        }
    }

    /** A snapshot, where the collection has them; otherwise all changes that are retained. */
    private static StartPosition firstPosition(ChangeFeedClient client, ResourceAddress address) {
        boolean can = client.capabilities(address).getCapabilitiesList().stream()
                .anyMatch(one -> one.getName().equals("CHANGE_FEED_SNAPSHOT") && one.getSupported());
        return can ? snapshot() : beginning();
    }

    /**
     * Names an item; null is no empty text. For a collection where types tell items apart, as 1 and "1" in Cosmos DB, put
     * each component's type into it too.
     */
    static String name(Key key) {
        ArrayNode values = JsonNodeFactory.instance.arrayNode();
        for (KeyComponent component : key.getComponentsList()) {
            values.add(component.getType() == KeyType.KEY_TYPE_NULL ? null : component.getValue());
        }
        return values.toString();
    }

    /** One change, idempotent, as delivery is at least once. */
    private void apply(ChangeEvent event) throws SQLException {
        String key = name(event.getKey());
        if (event.getChangeType() == ChangeType.CHANGE_TYPE_TRUNCATE) {
            run("delete from items");
        } else if (event.getChangeType() == ChangeType.CHANGE_TYPE_DELETE
                || event.getItemState() == ItemState.ITEM_STATE_NOT_APPLICABLE) {
            run("delete from items where key = ?", key);
        } else if (!event.getNewItemJson().isEmpty()) {
            // The text itself: every digit stays.
            run("insert or replace into items values (?, ?)", key, event.getNewItemJson());
        } else {
            throw new IllegalStateException(key + " came without its item: " + event.getItemState());
        }
    }

    private String token() throws SQLException {
        try (Statement statement = database.createStatement();
                ResultSet found = statement.executeQuery("select token from place")) {
            return found.next() ? found.getString(1) : null;
        }
    }

    private void run(String sql, String... values) throws SQLException {
        try (PreparedStatement statement = database.prepareStatement(sql)) {
            for (int i = 0; i < values.length; i++) {
                statement.setString(i + 1, values[i]);
            }
            statement.executeUpdate();
        }
    }
}
