package io.changefeed.client;

import io.changefeed.v1.ChildPartition;
import io.changefeed.v1.Closing;
import io.changefeed.v1.ClosingReason;
import io.changefeed.v1.PartitionRetired;
import io.changefeed.v1.SubscribeResponse;
import io.changefeed.v1.SubscriptionOpened;
import io.grpc.BindableService;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Server;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.util.List;

/** Servers in this process that say what a gateway seldom says. */
final class Gateways {
    private Gateways() {}

    static Server serve(BindableService service) throws IOException {
        return Grpc.newServerBuilderForPort(0, InsecureServerCredentials.create())
                .addService(service)
                .build()
                .start();
    }

    static ChangeFeedClient clientOf(Server server) {
        return ChangeFeedClient.connect("127.0.0.1:" + server.getPort());
    }

    static void stop(ChangeFeedClient client, Server server) throws InterruptedException {
        client.close();
        server.shutdownNow().awaitTermination();
    }

    /** A stream of a partition that has ended: opened at t1, retired at t2. */
    static void retire(StreamObserver<SubscribeResponse> stream, List<ChildPartition> children) {
        SubscribeResponse.Builder message = SubscribeResponse.newBuilder();
        stream.onNext(message.setDeliverySequence(1)
                .setOpened(SubscriptionOpened.newBuilder().setContinuationToken("t1"))
                .build());
        stream.onNext(message.setDeliverySequence(2)
                .setPartitionRetired(PartitionRetired.newBuilder()
                        .setContinuationToken("t2")
                        .addAllChildPartitions(children))
                .build());
        stream.onNext(message.setDeliverySequence(3)
                .setClosing(Closing.newBuilder()
                        .setReason(ClosingReason.CLOSING_REASON_PARTITION_RETIRED)
                        .setContinuationToken("t2"))
                .build());
        stream.onCompleted();
    }

    /** A child of p that names a parent, too, which nobody has listed. */
    static ChildPartition childOfAnUnknown() {
        return ChildPartition.newBuilder()
                .setPartitionId("q")
                .setContinuationToken("t0")
                .addAllParentPartitionIds(List.of("p", "unknown"))
                .build();
    }
}
