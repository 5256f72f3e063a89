package io.changefeed.client;

import java.util.concurrent.CompletableFuture;
import java.util.function.Consumer;

/** A tail that a listener is told of, on a thread of its own; see {@link ChangeFeedClient#listen}. */
public final class TailThread implements AutoCloseable {
    private final Tail tail;
    private final Consumer<Delivery> listener;
    private final CompletableFuture<Void> ended = new CompletableFuture<>();
    private final Thread thread = new Thread(this::run, "changefeed-tail");

    TailThread(Tail tail, Consumer<Delivery> listener) {
        this.tail = tail;
        this.listener = listener;
        thread.setDaemon(true);
    }

    TailThread start() {
        thread.start();
        return this;
    }

    /**
     * Completes when the tail ends by itself, or exceptionally: with what the tail or the listener threw, or as cancelled
     * after {@link #close}, of this or of the client.
     */
    public CompletableFuture<Void> ended() {
        return ended.copy();
    }

    /** Ends it, after the delivery that the listener has; called by the listener, when that returns. */
    @Override
    public void close() {
        tail.close();
        boolean interrupted = false;
        while (thread != Thread.currentThread() && thread.isAlive()) {
            try {
                thread.join();
            } catch (InterruptedException e) {
                interrupted = true;
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    private void run() {
        try (tail) {
            tail.forEachRemaining(listener);
            ended.complete(null);
        } catch (Throwable e) {
            ended.completeExceptionally(e);
        }
    }
}
