package io.changefeed.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import io.changefeed.v1.ChangeFeedServiceGrpc;
import io.changefeed.v1.ListPhysicalPartitionsRequest;
import io.changefeed.v1.ListPhysicalPartitionsResponse;
import io.changefeed.v1.PhysicalPartition;
import io.changefeed.v1.ResolveStartPositionRequest;
import io.changefeed.v1.ResolveStartPositionResponse;
import io.changefeed.v1.SubscribeRequest;
import io.changefeed.v1.SubscribeResponse;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Outages where partitions are listed and fixed; the conformance run shows the rest. */
@Timeout(30)
class PartitionReaderTest {
    /** Partition p is replaced by q, which names a parent that nobody has listed. Every other call fails. */
    private static final class Gateway extends ChangeFeedServiceGrpc.ChangeFeedServiceImplBase {
        private int calls;

        private synchronized boolean isAway(StreamObserver<?> answer) {
            calls++;
            if (calls % 2 == 1) {
                answer.onError(Status.INTERNAL.asRuntimeException());
            }
            return calls % 2 == 1;
        }

        @Override
        public void listPhysicalPartitions(
                ListPhysicalPartitionsRequest request, StreamObserver<ListPhysicalPartitionsResponse> answer) {
            if (!isAway(answer)) {
                answer.onNext(ListPhysicalPartitionsResponse.newBuilder()
                        .addPartitions(PhysicalPartition.newBuilder().setPartitionId("p"))
                        .build());
                answer.onCompleted();
            }
        }

        @Override
        public void resolveStartPosition(
                ResolveStartPositionRequest request, StreamObserver<ResolveStartPositionResponse> answer) {
            if (!isAway(answer)) {
                answer.onNext(ResolveStartPositionResponse.newBuilder()
                        .setContinuationToken("t0")
                        .build());
                answer.onCompleted();
            }
        }

        @Override
        public void subscribe(SubscribeRequest request, StreamObserver<SubscribeResponse> stream) {
            boolean hasChild = request.getScope().getPhysicalPartitionId().equals("p");
            Gateways.retire(stream, hasChild ? List.of(Gateways.childOfAnUnknown()) : List.of());
        }
    }

    private final List<RuntimeException> told = new ArrayList<>();
    private Server server;
    private ChangeFeedClient client;

    @BeforeEach
    void serve() throws IOException {
        server = Gateways.serve(new Gateway());
        client = Gateways.clientOf(server);
    }

    @AfterEach
    void stop() throws InterruptedException {
        Gateways.stop(client, server);
    }

    private List<String> read(TailOptions options) {
        List<String> read = new ArrayList<>();
        client.readPartitions(
                Positions.collection("main/documents"),
                Positions.beginning(),
                new MemoryCheckpoint(),
                options.onReconnect((error, pause) -> told.add(error)),
                (id, delivery) -> read.add(id + " " + delivery.continuationToken()));
        return read;
    }

    @Test
    void anOutageIsWaitedForWhereverPartitionsAreListedOrFixed() {
        List<String> all = List.of("p t1", "p t2", "p t2", "q t1", "q t2", "q t2");
        assertEquals(all, read(new TailOptions()));
        assertEquals(3, told.size(), "it listed, fixed, and looked for the parent that was not listed: " + told);
    }

    @Test
    void patienceBoundsIt() {
        ChangeFeedException thrown =
                assertThrows(ChangeFeedException.class, () -> read(new TailOptions().patience(Duration.ZERO)));
        assertEquals(Status.Code.INTERNAL, thrown.code());
        assertEquals(List.of(), told);
    }
}
