package io.changefeed.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.changefeed.v1.ChangeFeedServiceGrpc;
import io.changefeed.v1.SubscribeRequest;
import io.changefeed.v1.SubscribeResponse;
import io.changefeed.v1.SubscriptionOpened;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.function.Supplier;
import java.util.logging.Handler;
import java.util.logging.LogRecord;
import java.util.logging.Logger;
import java.util.logging.SimpleFormatter;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Without TLS, which is not what these tests are about: the credentials are put on each call. */
@Timeout(30)
class BearerTest {
    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    private static final class Gateway extends ChangeFeedServiceGrpc.ChangeFeedServiceImplBase
            implements ServerInterceptor {
        final BlockingQueue<String> authorizations = new LinkedBlockingQueue<>();

        @Override
        public <Q, A> ServerCall.Listener<Q> interceptCall(
                ServerCall<Q, A> call, Metadata headers, ServerCallHandler<Q, A> next) {
            authorizations.add(String.valueOf(headers.get(AUTHORIZATION)));
            return next.startCall(call, headers);
        }

        @Override
        public void subscribe(SubscribeRequest request, StreamObserver<SubscribeResponse> stream) {
            stream.onNext(SubscribeResponse.newBuilder()
                    .setDeliverySequence(1)
                    .setOpened(SubscriptionOpened.newBuilder().setContinuationToken("t0"))
                    .build());
        }
    }

    private record Authorized(Bearer bearer) implements ClientInterceptor {
        @Override
        public <Q, A> ClientCall<Q, A> interceptCall(MethodDescriptor<Q, A> method, CallOptions options, Channel next) {
            return next.newCall(method, options.withCallCredentials(bearer));
        }
    }

    private final class Log extends Handler {
        @Override
        public void publish(LogRecord record) {
            shown.add(new SimpleFormatter().format(record));
        }

        @Override
        public void flush() {}

        @Override
        public void close() {}
    }

    private final Gateway gateway = new Gateway();
    private final List<String> shown = new ArrayList<>();
    private final Log log = new Log();
    private Server server;

    @BeforeEach
    void serve() throws IOException {
        server = Grpc.newServerBuilderForPort(0, InsecureServerCredentials.create())
                .addService(gateway)
                .intercept(gateway)
                .build()
                .start();
        Logger.getLogger("").addHandler(log);
    }

    @AfterEach
    void stop() throws InterruptedException {
        Logger.getLogger("").removeHandler(log);
        server.shutdownNow().awaitTermination();
    }

    static Stream<Supplier<String>> sourcesWithoutAToken() {
        Stream<Supplier<String>> failing = Stream.of(
                () -> {
                    throw new IllegalStateException("away");
                },
                () -> {
                    throw new AssertionError("away");
                });
        Stream<String> texts = Stream.of(null, "", "hidden token", "hidden\n", "hidden\u00e9", "hidden\u0000");
        return Stream.concat(failing, texts.map(text -> () -> text));
    }

    @ParameterizedTest
    @MethodSource("sourcesWithoutAToken")
    void whereNoTokenCanBeHadThatIsAnOutage(Supplier<String> source) {
        List<RuntimeException> outages = new ArrayList<>();
        Iterator<Supplier<String>> sources = List.<Supplier<String>>of(source, () -> "token").iterator();
        Bearer bearer = new Bearer(() -> sources.next().get());
        ConnectOptions options = new ConnectOptions().channel(builder -> builder.intercept(new Authorized(bearer)));
        TailOptions told = new TailOptions().onReconnect((error, pause) -> outages.add(error));
        try (ChangeFeedClient client = ChangeFeedClient.connect("127.0.0.1:" + server.getPort(), options);
                Tail tail = client.tail(Positions.collection("main/documents"), Positions.now(), told)) {
            assertEquals("t0", tail.next().continuationToken());
        }
        ChangeFeedException outage = (ChangeFeedException) outages.get(0);
        assertEquals(Status.Code.UNAVAILABLE, outage.code());
        assertEquals(Category.TRANSIENT_FAILURE, outage.category());
        assertTrue(outage.retryable());
        assertEquals(List.of("Bearer token"), List.copyOf(gateway.authorizations));
        StringWriter trace = new StringWriter();
        outage.printStackTrace(new PrintWriter(trace));
        shown.add(trace.toString());
        assertFalse(String.join("\n", shown).contains("hidden"), () -> "it is shown: " + shown);
    }
}
