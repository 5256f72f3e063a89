package io.changefeed.client;

import java.util.Map;

/** Keeps positions as long as the process lives. */
public final class MemoryCheckpoint implements Checkpoint {
    private Map<String, String> positions = Map.of();

    @Override
    public synchronized Map<String, String> load() {
        return Map.copyOf(positions);
    }

    @Override
    public synchronized void save(Map<String, String> changes) {
        positions = Checkpoint.changed(positions, changes);
    }
}
