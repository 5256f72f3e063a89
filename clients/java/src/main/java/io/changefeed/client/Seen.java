package io.changefeed.client;

import io.changefeed.v1.ChangeEvent;
import java.util.Iterator;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;

/** Remembers the ids of the last changes: redelivered ones follow a reconnect, so a window is enough. */
final class Seen {
    private final int size;

    /** In the order of their first coming. */
    private final Set<String> known = new LinkedHashSet<>();

    Seen(int size) {
        this.size = size;
    }

    /** What was not delivered before, in the same order. */
    List<ChangeEvent> fresh(List<ChangeEvent> events) {
        return size == 0
                ? events
                : events.stream().filter(event -> isNew(event.getEventId())).toList();
    }

    private boolean isNew(String id) {
        if (!known.add(id)) {
            return false;
        }
        if (known.size() > size) {
            Iterator<String> oldest = known.iterator();
            oldest.next();
            oldest.remove();
        }
        return true;
    }
}
