package io.changefeed.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.changefeed.v1.ChangeFeedServiceGrpc;
import io.changefeed.v1.ListPhysicalPartitionsRequest;
import io.changefeed.v1.ListPhysicalPartitionsResponse;
import io.changefeed.v1.PhysicalPartition;
import io.changefeed.v1.ResolveStartPositionRequest;
import io.changefeed.v1.ResolveStartPositionResponse;
import io.changefeed.v1.ResourceAddress;
import io.changefeed.v1.SubscribeRequest;
import io.changefeed.v1.SubscribeResponse;
import io.grpc.Context;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.util.List;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** What the caller itself ends is told in Java's word for it, and never as an error that may be tried again. */
@Timeout(30)
class LifetimeTest {
    /** All that may be under way; the collection of its name has it wait just there. */
    private enum Work {
        CALLS,
        TAILS,
        LISTS,
        FIXES,
        LEARNS,
        PAUSES,
        READS
    }

    private final Semaphore waits = new Semaphore(0);
    private final AtomicInteger learned = new AtomicInteger();

    private final class Gateway extends ChangeFeedServiceGrpc.ChangeFeedServiceImplBase {
        @Override
        public void listPhysicalPartitions(
                ListPhysicalPartitionsRequest request, StreamObserver<ListPhysicalPartitionsResponse> answer) {
            switch (Work.valueOf(request.getAddress().getCollection())) {
                case CALLS, LISTS -> waits.release();
                case PAUSES -> answer.onError(Status.INTERNAL.asRuntimeException());
                case LEARNS -> {
                    if (learned.incrementAndGet() == 1) {
                        list(answer);
                    } else {
                        waits.release();
                    }
                }
                default -> list(answer);
            }
        }

        private void list(StreamObserver<ListPhysicalPartitionsResponse> answer) {
            answer.onNext(ListPhysicalPartitionsResponse.newBuilder()
                    .addPartitions(PhysicalPartition.newBuilder().setPartitionId("p"))
                    .build());
            answer.onCompleted();
        }

        @Override
        public void resolveStartPosition(
                ResolveStartPositionRequest request, StreamObserver<ResolveStartPositionResponse> answer) {
            if (Work.valueOf(request.getAddress().getCollection()) == Work.FIXES) {
                waits.release();
                return;
            }
            answer.onNext(ResolveStartPositionResponse.newBuilder()
                    .setContinuationToken("t")
                    .build());
            answer.onCompleted();
        }

        @Override
        public void subscribe(SubscribeRequest request, StreamObserver<SubscribeResponse> stream) {
            if (Work.valueOf(request.getAddress().getCollection()) == Work.LEARNS) {
                Gateways.retire(stream, List.of(Gateways.childOfAnUnknown()));
            } else {
                waits.release();
            }
        }
    }

    private record Ended(CancellationException thrown, boolean isInterrupted) {}

    private Server server;
    private ChangeFeedClient client;
    private Thread thread;

    @BeforeEach
    void serve() throws IOException {
        server = Gateways.serve(new Gateway());
        client = Gateways.clientOf(server);
    }

    @AfterEach
    void stop() throws InterruptedException {
        Gateways.stop(client, server);
    }

    private void carryOut(Work work) {
        ResourceAddress address = Positions.collection("main/" + work);
        TailOptions options = new TailOptions().onReconnect((error, pause) -> waits.release());
        switch (work) {
            case CALLS -> client.partitions(address);
            case TAILS -> {
                try (Tail tail = client.tail(address, Positions.now(), options)) {
                    tail.hasNext();
                }
            }
            default -> client.readPartitions(
                    address, Positions.now(), new MemoryCheckpoint(), options, (id, delivery) -> {});
        }
    }

    private CompletableFuture<Ended> begun(Work work, Context context) throws InterruptedException {
        CompletableFuture<Ended> ended = new CompletableFuture<>();
        Runnable carryOut = context.wrap(() -> {
            CancellationException thrown = assertThrows(CancellationException.class, () -> carryOut(work));
            ended.complete(new Ended(thrown, Thread.currentThread().isInterrupted()));
        });
        thread = new Thread(carryOut);
        thread.setUncaughtExceptionHandler((of, error) -> ended.completeExceptionally(error));
        thread.start();
        waits.acquire();
        return ended;
    }

    @ParameterizedTest
    @EnumSource(Work.class)
    void aClosedClientEndsWhatIsUnderWayAndWhatComesLater(Work work) throws Exception {
        CompletableFuture<Ended> ended = begun(work, Context.ROOT);
        client.close();
        assertEquals("the client was closed", ended.get().thrown.getMessage());
        CancellationException later = assertThrows(CancellationException.class, () -> carryOut(work));
        assertEquals("the client was closed", later.getMessage());
    }

    @ParameterizedTest
    @EnumSource(Work.class)
    void anInterruptEndsWhatIsUnderWay(Work work) throws Exception {
        CompletableFuture<Ended> ended = begun(work, Context.ROOT);
        thread.interrupt();
        assertEquals("the thread was interrupted", ended.get().thrown.getMessage());
        assertTrue(ended.get().isInterrupted, "the flag is kept");
    }

    @ParameterizedTest
    @EnumSource(Work.class)
    void aCancelledContextEndsWhatIsUnderWay(Work work) throws Exception {
        try (Context.CancellableContext context = Context.ROOT.withCancellation()) {
            CompletableFuture<Ended> ended = begun(work, context);
            context.cancel(null);
            assertEquals("the gRPC context was cancelled", ended.get().thrown.getMessage());
        }
    }
}
