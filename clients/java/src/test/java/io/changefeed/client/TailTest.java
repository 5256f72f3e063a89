package io.changefeed.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.changefeed.v1.ChangeBatch;
import io.changefeed.v1.ChangeEvent;
import io.changefeed.v1.ChangeFeedServiceGrpc;
import io.changefeed.v1.Closing;
import io.changefeed.v1.ClosingReason;
import io.changefeed.v1.ListPhysicalPartitionsRequest;
import io.changefeed.v1.ListPhysicalPartitionsResponse;
import io.changefeed.v1.PhysicalPartition;
import io.changefeed.v1.ResolveStartPositionRequest;
import io.changefeed.v1.ResolveStartPositionResponse;
import io.changefeed.v1.ResourceAddress;
import io.changefeed.v1.SubscribeRequest;
import io.changefeed.v1.SubscribeResponse;
import io.changefeed.v1.SubscriptionOpened;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.Status.Code;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** What is Java's own: threads, interrupts and closing. The conformance run shows the rest. */
@Timeout(30)
class TailTest {
    /** Says one batch a stream and leaves it open; after "end" it says goodbye, for "refused" it fails. */
    private static final class Gateway extends ChangeFeedServiceGrpc.ChangeFeedServiceImplBase {
        final BlockingQueue<SubscribeRequest> requests = new LinkedBlockingQueue<>();

        @Override
        public void subscribe(SubscribeRequest request, StreamObserver<SubscribeResponse> stream) {
            requests.add(request);
            SubscribeResponse.Builder message = SubscribeResponse.newBuilder();
            stream.onNext(message.setDeliverySequence(1)
                    .setOpened(SubscriptionOpened.newBuilder().setContinuationToken("t0"))
                    .build());
            stream.onNext(message.setDeliverySequence(2)
                    .setBatch(ChangeBatch.newBuilder()
                            .setContinuationToken("t1")
                            .addEvents(ChangeEvent.newBuilder().setEventId("a")))
                    .build());
            switch (request.getAddress().getCollection()) {
                case "ends" -> {
                    Closing.Builder closing = Closing.newBuilder()
                            .setReason(ClosingReason.CLOSING_REASON_MAX_EVENTS)
                            .setContinuationToken("t2");
                    stream.onNext(message.setDeliverySequence(3).setClosing(closing).build());
                    stream.onCompleted();
                }
                case "fails" -> stream.onError(Status.OUT_OF_RANGE.asRuntimeException());
                default -> {}
            }
        }

        @Override
        public void listPhysicalPartitions(
                ListPhysicalPartitionsRequest request, StreamObserver<ListPhysicalPartitionsResponse> answer) {
            ListPhysicalPartitionsResponse.Builder page = ListPhysicalPartitionsResponse.newBuilder();
            for (String id : List.of("p", "q")) {
                page.addPartitions(PhysicalPartition.newBuilder().setPartitionId(id));
            }
            answer.onNext(page.build());
            answer.onCompleted();
        }

        @Override
        public void resolveStartPosition(
                ResolveStartPositionRequest request, StreamObserver<ResolveStartPositionResponse> answer) {
            answer.onNext(ResolveStartPositionResponse.newBuilder()
                    .setContinuationToken("of " + request.getScope().getPhysicalPartitionId())
                    .build());
            answer.onCompleted();
        }
    }

    private final Gateway gateway = new Gateway();
    private final MemoryCheckpoint checkpoint = new MemoryCheckpoint();
    private Server server;
    private ChangeFeedClient client;

    @BeforeEach
    void serve() throws IOException {
        listenOn(0);
        client = ChangeFeedClient.connect("127.0.0.1:" + server.getPort());
    }

    private void listenOn(int port) throws IOException {
        server = Grpc.newServerBuilderForPort(port, InsecureServerCredentials.create())
                .addService(gateway)
                .build()
                .start();
    }

    @AfterEach
    void stop() throws InterruptedException {
        client.close();
        server.shutdownNow().awaitTermination();
    }

    private Tail tail(String collection, TailOptions options) {
        return client.tail(Positions.collection("main/" + collection), Positions.beginning(), options);
    }

    private TailThread listen(String collection, Consumer<Delivery> listener) {
        TailOptions options = new TailOptions().checkpoint(checkpoint);
        return client.listen(Positions.collection("main/" + collection), Positions.beginning(), options, listener);
    }

    /** Takes what the gateway says, and then waits for more; completes with what that wait threw. */
    private CompletableFuture<Throwable> waiting(Tail tail) throws InterruptedException {
        CompletableFuture<Throwable> thrown = new CompletableFuture<>();
        CountDownLatch waits = new CountDownLatch(1);
        Thread reader = new Thread(() -> {
            tail.next();
            tail.next();
            waits.countDown();
            thrown.complete(assertThrows(CancellationException.class, tail::hasNext));
        });
        reader.start();
        waits.await();
        return thrown;
    }

    @Test
    void closingATailEndsItsReader() throws Exception {
        Tail tail = tail("documents", new TailOptions());
        CompletableFuture<Throwable> thrown = waiting(tail);
        tail.close();
        thrown.get();
        assertThrows(CancellationException.class, tail::hasNext, "it is no end of the feed");
    }

    @Test
    void closingTheClientEndsItsTails() throws Exception {
        CompletableFuture<Throwable> thrown = waiting(tail("documents", new TailOptions()));
        client.close();
        thrown.get();
        assertThrows(CancellationException.class, () -> tail("documents", new TailOptions()).hasNext());
    }

    @Test
    void closingATailEndsItsPause() throws Exception {
        server.shutdownNow().awaitTermination();
        CompletableFuture<Duration> paused = new CompletableFuture<>();
        Tail tail = tail("documents", new TailOptions().onReconnect((error, pause) -> paused.complete(pause)));
        CompletableFuture<Void> reading = CompletableFuture.runAsync(
                () -> assertThrows(CancellationException.class, tail::hasNext));
        paused.get();
        tail.close();
        reading.get();
    }

    @Test
    void anInterruptedReaderLosesNothing() {
        try (Tail tail = tail("documents", new TailOptions())) {
            Thread.currentThread().interrupt();
            assertThrows(CancellationException.class, tail::hasNext);
            assertTrue(Thread.interrupted(), "the flag is kept");
            assertEquals(List.of("t0", "t1"), List.of(tail.next().continuationToken(), tail.next().continuationToken()));
        }
        assertEquals(1, gateway.requests.size(), "and the stream too");
    }

    @Test
    void aGatewayThatIsBackIsCalledAtOnce() throws Exception {
        ResourceAddress documents = Positions.collection("main/documents");
        int port = server.getPort();
        server.shutdownNow().awaitTermination();
        assertThrows(ChangeFeedException.class, () -> client.partitions(documents));
        listenOn(port);
        assertEquals(2, client.partitions(documents).size(), "gRPC itself connects again after a second and more");
    }

    @Test
    void aLoopThatIsLeftSavesNothingOfItsLastDelivery() {
        try (Tail tail = tail("documents", new TailOptions().checkpoint(checkpoint))) {
            tail.next();
            assertEquals(Map.of(), checkpoint.load());
            tail.next();
        }
        assertEquals(Map.of("*", "t0"), checkpoint.load());
    }

    @Test
    void aSecondLoopIsNotTakenForTheWordThatAllIsHandled() {
        try (Tail tail = tail("documents", new TailOptions().checkpoint(checkpoint))) {
            for (Delivery left : tail) {
                assertEquals("t0", left.continuationToken());
                break;
            }
            assertThrows(IllegalStateException.class, tail::iterator);
            assertEquals(Map.of(), checkpoint.load());
            assertEquals("t1", tail.next().continuationToken(), "who asks on has handled it");
        }
        try (Tail tail = tail("documents", new TailOptions())) {
            tail.next();
            assertSame(tail, tail.iterator(), "without a checkpoint nothing is taken for handled");
        }
    }

    @Test
    void aTokenIsSavedWhenTheListenerReturned() throws Exception {
        BlockingQueue<Map<String, String>> saved = new LinkedBlockingQueue<>();
        try (TailThread tail = listen("ends", delivery -> saved.add(checkpoint.load()))) {
            tail.ended().get();
        }
        assertEquals(List.of(Map.of(), Map.of("*", "t0"), Map.of("*", "t1")), List.copyOf(saved));
        assertEquals(Map.of("*", "t2"), checkpoint.load());
    }

    @Test
    void aListenersFailureEndsItsTailAndSavesNothing() throws Exception {
        IllegalStateException failure = new IllegalStateException("of the listener");
        try (TailThread tail = listen("documents", delivery -> {
            if (!delivery.events().isEmpty()) {
                throw failure;
            }
        })) {
            ExecutionException thrown = assertThrows(ExecutionException.class, () -> tail.ended().get());
            assertSame(failure, thrown.getCause());
        }
        assertEquals(Map.of("*", "t0"), checkpoint.load());
    }

    @Test
    void aListenerIsToldOfTheEnd() {
        try (TailThread tail = listen("fails", delivery -> {})) {
            ExecutionException thrown = assertThrows(ExecutionException.class, () -> tail.ended().get());
            assertEquals(Code.OUT_OF_RANGE, ((ChangeFeedException) thrown.getCause()).code());
        }
    }

    @Test
    void closingWaitsForTheListener() throws Exception {
        CountDownLatch works = new CountDownLatch(1);
        CountDownLatch goOn = new CountDownLatch(1);
        AtomicInteger told = new AtomicInteger();
        TailThread tail = listen("documents", delivery -> {
            works.countDown();
            assertTrue(uninterrupted(goOn));
            told.incrementAndGet();
        });
        works.await();
        AtomicInteger toldBefore = new AtomicInteger();
        Thread closing = new Thread(() -> {
            tail.close();
            toldBefore.set(told.get());
        });
        closing.start();
        while (closing.isAlive() && closing.getState() != Thread.State.WAITING) {
            Thread.onSpinWait();
        }
        goOn.countDown();
        closing.join();
        assertEquals(1, toldBefore.get());
        assertTrue(tail.ended().isCompletedExceptionally());
    }

    private static boolean uninterrupted(CountDownLatch latch) {
        try {
            latch.await();
            return true;
        } catch (InterruptedException e) {
            return false;
        }
    }

    @Test
    void aHandlersFailureEndsTheReadersOfAllPartitions() {
        IllegalStateException failure = new IllegalStateException("of the handler");
        IllegalStateException thrown = assertThrows(IllegalStateException.class, () -> client.readPartitions(
                Positions.collection("main/documents"),
                Positions.beginning(),
                checkpoint,
                new TailOptions(),
                (id, delivery) -> {
                    if (id.equals("p") && !delivery.events().isEmpty()) {
                        throw failure;
                    }
                }));
        assertSame(failure, thrown);
        assertEquals("t0", checkpoint.load().get("p"), "what was not handled is not saved");
    }

    @Test
    void aSecondPlaceForPositionsIsRefused() {
        TailOptions options = new TailOptions().checkpoint(checkpoint);
        assertThrows(IllegalArgumentException.class, () -> client.readPartitions(
                Positions.collection("main/documents"), Positions.beginning(), checkpoint, options, (id, d) -> {}));
    }
}
