package io.changefeed.client;

import java.util.HashMap;
import java.util.Map;

/**
 * Keeps positions, which are saved tokens, where they outlive this process: by physical partition where one is read,
 * otherwise under {@link #WHOLE}. One reader at a time uses it, of partitions from several threads. A consumer with a
 * database of its own needs none: it saves the token in the transaction of its work and starts at
 * {@link Positions#after}.
 */
public interface Checkpoint {
    /** Names the position of a reader of an entire collection or of a logical partition. */
    String WHOLE = "*";

    /** What was saved; empty when nothing was. */
    Map<String, String> load();

    /** Changes some positions, all of them or none; an empty token removes one. Once it returned, no kill loses it. */
    void save(Map<String, String> changes);

    /** Positions after a change of some; an empty token removes one. */
    static Map<String, String> changed(Map<String, String> positions, Map<String, String> changes) {
        Map<String, String> next = new HashMap<>(positions);
        next.putAll(changes);
        next.values().removeIf(String::isEmpty);
        return next;
    }
}
