package io.changefeed.client;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.channels.ClosedByInterruptException;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.HashMap;
import java.util.Map;

/**
 * Keeps positions in a file of JSON, which is replaced whole. A damaged file is an error and never an empty one: to
 * begin anew in silence would be to miss changes, or to repeat all.
 */
public final class FileCheckpoint implements Checkpoint {
    private final Path path;

    public FileCheckpoint(Path path) {
        this.path = path.toAbsolutePath();
    }

    /**
     * What the file holds; empty when there is none.
     *
     * @throws UncheckedIOException if it cannot be read
     * @throws IllegalStateException if it is damaged
     */
    @Override
    public synchronized Map<String, String> load() {
        try {
            return positions(Files.readString(path));
        } catch (NoSuchFileException e) {
            return Map.of();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /**
     * Changes some positions; an empty token removes one.
     *
     * @throws UncheckedIOException if the file cannot be read or replaced
     * @throws IllegalStateException if it is damaged
     */
    @Override
    public synchronized void save(Map<String, String> changes) {
        ObjectNode next = JsonNodeFactory.instance.objectNode();
        Checkpoint.changed(load(), changes).forEach(next::put);
        try {
            replace(next.toString().getBytes(StandardCharsets.UTF_8));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private Map<String, String> positions(String text) {
        try {
            JsonNode found = Items.parse(text);
            Map<String, String> positions = new HashMap<>();
            found.properties().forEach(entry -> positions.put(entry.getKey(), entry.getValue().textValue()));
            if (found.isObject() && !positions.containsValue(null)) {
                return positions;
            }
        } catch (JsonProcessingException e) {
            // It holds none, as said below; the cause would quote it.
        }
        throw new IllegalStateException(path + " holds no positions: bring it back, or remove it to start over");
    }

    /** Leaves the old content or the new one, whenever the machine stops. */
    private void replace(byte[] content) throws IOException {
        boolean isNew = Files.notExists(path);
        // Always the same name, so that those who are killed leave one at most.
        Path draft = path.resolveSibling(path.getFileName() + ".new");
        uninterrupted(() -> write(draft, content));
        Files.move(draft, path, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
        if (isNew) {
            uninterrupted(() -> makeDurable(path.getParent()));
        }
    }

    private static void write(Path draft, byte[] content) throws IOException {
        // What a killed process left, or somebody else put there to have it overwritten.
        Files.deleteIfExists(draft);
        try (FileChannel out = FileChannel.open(draft, StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE)) {
            ByteBuffer rest = ByteBuffer.wrap(content);
            while (rest.hasRemaining()) {
                out.write(rest);
            }
            out.force(true);
        }
    }

    /**
     * Has the names in a folder survive a crash of the machine, where folders can be opened. A new content may come
     * again as the old one, but a file that is gone would have its reader begin elsewhere.
     */
    private static void makeDurable(Path folder) throws ClosedByInterruptException {
        try (FileChannel names = FileChannel.open(folder, StandardOpenOption.READ)) {
            names.force(true);
        } catch (ClosedByInterruptException e) {
            throw e;
        } catch (IOException e) {
            // Some systems cannot, and keep names in another way.
        }
    }

    private interface Step {
        void run() throws IOException;
    }

    /**
     * Does again what an interrupt broke off, and keeps the thread's flag: what is handled is saved first. Java has no
     * stream that makes a file of its own, syncs it and passes interrupts over.
     */
    private static void uninterrupted(Step step) throws IOException {
        boolean interrupted = Thread.interrupted();
        boolean done = false;
        try {
            while (!done) {
                try {
                    step.run();
                    done = true;
                } catch (ClosedByInterruptException e) {
                    interrupted |= Thread.interrupted();
                }
            }
        } finally {
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }
}
