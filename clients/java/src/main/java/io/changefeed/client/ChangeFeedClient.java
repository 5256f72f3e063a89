package io.changefeed.client;

import io.changefeed.v1.ChangeFeedServiceGrpc;
import io.changefeed.v1.ChangeFeedServiceGrpc.ChangeFeedServiceBlockingStub;
import io.changefeed.v1.FeedScope;
import io.changefeed.v1.GetCapabilitiesRequest;
import io.changefeed.v1.GetCapabilitiesResponse;
import io.changefeed.v1.InspectContinuationTokenRequest;
import io.changefeed.v1.InspectContinuationTokenResponse;
import io.changefeed.v1.ListPhysicalPartitionsRequest;
import io.changefeed.v1.ListPhysicalPartitionsResponse;
import io.changefeed.v1.PhysicalPartition;
import io.changefeed.v1.ReadChangesRequest;
import io.changefeed.v1.ReadChangesResponse;
import io.changefeed.v1.ResolveStartPositionRequest;
import io.changefeed.v1.ResolveStartPositionResponse;
import io.changefeed.v1.ResourceAddress;
import io.changefeed.v1.StartPosition;
import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CancellationException;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import java.util.function.BiConsumer;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.function.Supplier;

/**
 * One gateway, for any number of threads. Its calls throw {@link ChangeFeedException}; they are tried again where that is
 * safe, and have a deadline of 30 seconds. What the caller itself ends throws a {@link CancellationException}: the client
 * was closed, the gRPC context cancelled, or the thread interrupted, whose flag is kept.
 */
public final class ChangeFeedClient implements AutoCloseable {
    private static final Duration DEADLINE = Duration.ofSeconds(30);
    private static final String CLOSED = "the client was closed";

    private final Supplier<ManagedChannel> dialer;
    private final ManagedChannel channel;
    private final Set<Tail> tails = ConcurrentHashMap.newKeySet();
    private final Lifetime lifetime = new Lifetime();

    private ChangeFeedClient(Supplier<ManagedChannel> dialer) {
        this.dialer = dialer;
        channel = dialer.get();
    }

    /** A client of the gateway at {@code host:port}, in plaintext. It connects with its first call. */
    public static ChangeFeedClient connect(String target) {
        return connect(target, new ConnectOptions());
    }

    /**
     * A client of the gateway at {@code host:port}. It connects with its first call.
     *
     * @throws IllegalArgumentException for a bearer token without TLS
     */
    public static ChangeFeedClient connect(String target, ConnectOptions options) {
        return new ChangeFeedClient(options.dialer(target));
    }

    /**
     * Ends the client's tails, readers of partitions and calls: those under way, and later ones, throw a
     * {@link CancellationException} that says so.
     */
    @Override
    public void close() {
        lifetime.end(CLOSED);
        tails.forEach(tail -> tail.close(CLOSED));
        channel.shutdownNow();
    }

    /** Follows a collection live; see {@link #tail(ResourceAddress, StartPosition, TailOptions)}. */
    public Tail tail(ResourceAddress address, StartPosition start) {
        return tail(address, start, new TailOptions());
    }

    /**
     * Follows a collection live, and opens a new stream from the last token whenever one breaks. Close the tail when it
     * is left. gRPC reads up to 4 messages ahead of the loop.
     */
    public Tail tail(ResourceAddress address, StartPosition start, TailOptions options) {
        return tail(address, start, options.scope, options.checkpoint, options);
    }

    Tail tail(
            ResourceAddress address,
            StartPosition start,
            FeedScope scope,
            Checkpoint checkpoint,
            TailOptions options) {
        Tail tail = new Tail(this, address, start, scope, checkpoint, options);
        tails.add(tail);
        if (lifetime.isOver()) {
            tail.close(CLOSED);
        }
        return tail;
    }

    /**
     * Has a listener told of one delivery after the other, on a thread of its own. With a checkpoint, a delivery's token
     * is saved when the listener returned.
     */
    public TailThread listen(
            ResourceAddress address, StartPosition start, TailOptions options, Consumer<Delivery> listener) {
        return new TailThread(tail(address, start, options), listener).start();
    }

    /**
     * Follows the physical partitions of a collection in parallel, a tail and a thread each, and goes on with the children
     * of those that retire: a child once all its parents are read to their end, so that every key keeps its order. The
     * handler is called for one delivery of a partition after the other, and for those of several partitions at the same
     * time; a delivery's token is saved when it returned. The checkpoint's positions go before the start. An outage is
     * waited for as the options say, also where partitions are listed and positions fixed. Returns when every partition is
     * retired without children; throws what the handler, the checkpoint, a call or a tail threw first, after all others
     * have ended. Interrupt the thread, or close the client, to end it: that throws a {@link CancellationException}.
     *
     * @throws IllegalArgumentException for options with a scope, a number of events or a second checkpoint
     */
    public void readPartitions(
            ResourceAddress address,
            StartPosition start,
            Checkpoint checkpoint,
            TailOptions options,
            BiConsumer<String, Delivery> handler) {
        if (options.scope != null || options.maxEvents != 0 || options.checkpoint != null) {
            throw new IllegalArgumentException("partitions take no scope, no number of events, no second checkpoint");
        }
        new PartitionReader(this, address, checkpoint, options, handler).run(start);
    }

    /** One page; the request's max_wait lets the gateway wait for it. Save its token, also when it is empty. */
    public ReadChangesResponse readPage(ReadChangesRequest request) {
        return call(DEADLINE.plus(Spans.span(request.getMaxWait())), stub -> stub.readChanges(request));
    }

    /** The physical partitions that hold retained changes, parents before their children. */
    public List<PhysicalPartition> partitions(ResourceAddress address) {
        List<PhysicalPartition> all = new ArrayList<>();
        ListPhysicalPartitionsRequest.Builder request =
                ListPhysicalPartitionsRequest.newBuilder().setAddress(address);
        do {
            ListPhysicalPartitionsResponse page =
                    call(DEADLINE, stub -> stub.listPhysicalPartitions(request.build()));
            all.addAll(page.getPartitionsList());
            request.setPageToken(page.getNextPageToken());
        } while (!request.getPageToken().isEmpty());
        return all;
    }

    /** What a collection can do. */
    public GetCapabilitiesResponse capabilities(ResourceAddress address) {
        GetCapabilitiesRequest request =
                GetCapabilitiesRequest.newBuilder().setAddress(address).build();
        return call(DEADLINE, stub -> stub.getCapabilities(request));
    }

    /** A start position as a token of the entire collection. */
    public ResolveStartPositionResponse resolve(ResourceAddress address, StartPosition start) {
        return resolve(address, start, FeedScope.getDefaultInstance());
    }

    /** A start position as a token of a part of the collection. */
    public ResolveStartPositionResponse resolve(ResourceAddress address, StartPosition start, FeedScope scope) {
        ResolveStartPositionRequest.Builder request =
                ResolveStartPositionRequest.newBuilder().setAddress(address).setStartPosition(start);
        if (!scope.equals(FeedScope.getDefaultInstance())) {
            request.setScope(scope);
        }
        return call(DEADLINE, stub -> stub.resolveStartPosition(request.build()));
    }

    /** What a token is, and whether it can be used; one that cannot is an answer, not an error. */
    public InspectContinuationTokenResponse inspect(ResourceAddress address, String continuationToken) {
        InspectContinuationTokenRequest request = InspectContinuationTokenRequest.newBuilder()
                .setAddress(address)
                .setContinuationToken(continuationToken)
                .build();
        return call(DEADLINE, stub -> stub.inspectContinuationToken(request));
    }

    private <T> T call(Duration longest, Function<ChangeFeedServiceBlockingStub, T> method) {
        ChangeFeedServiceBlockingStub stub = ChangeFeedServiceGrpc.newBlockingStub(channel())
                .withDeadlineAfter(Spans.nanos(longest), TimeUnit.NANOSECONDS);
        try {
            return method.apply(stub);
        } catch (StatusRuntimeException e) {
            lifetime.throwIfOver();
            if (e.getStatus().getCode() == Status.Code.CANCELLED && Thread.currentThread().isInterrupted()) {
                throw Lifetime.interrupted();
            }
            throw ChangeFeedException.of(e);
        }
    }

    Lifetime lifetime() {
        return lifetime;
    }

    ManagedChannel channel() {
        return eager(channel);
    }

    ManagedChannel dial() {
        return dialer.get();
    }

    void forget(Tail tail) {
        tails.remove(tail);
    }

    /** A channel that connects when it is used: gRPC's pause after a failure grows to two minutes, beyond any restart. */
    static ManagedChannel eager(ManagedChannel channel) {
        if (channel.getState(false) == ConnectivityState.TRANSIENT_FAILURE) {
            channel.enterIdle();
        }
        return channel;
    }
}
