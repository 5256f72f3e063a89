package io.changefeed.client;

import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;

import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.time.Duration;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

@Timeout(30)
class OpeningTest {
    @ParameterizedTest
    @ValueSource(booleans = {false, true})
    void aPeerThatAcceptsAndSaysNothingIsLeftForAnother(boolean encrypted) throws IOException {
        ConnectOptions options = encrypted ? new ConnectOptions().tls() : new ConnectOptions();
        options.longestOpening = Duration.ofMillis(300);
        try (ServerSocket mute = new ServerSocket(0, 5, InetAddress.getLoopbackAddress());
                ChangeFeedClient client = ChangeFeedClient.connect("127.0.0.1:" + mute.getLocalPort(), options)) {
            mute.setSoTimeout(10_000);
            CompletableFuture<Void> call = CompletableFuture.runAsync(() -> {
                try {
                    client.partitions(Positions.collection("main/documents"));
                } catch (CancellationException e) {
                    // The test is over.
                }
            });
            try (Socket first = mute.accept();
                    Socket second = mute.accept()) {
                assertNotEquals(first.getPort(), second.getPort());
                assertFalse(call.isDone(), "the call waits for the other connection");
            }
        }
    }
}
