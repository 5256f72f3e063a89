package io.changefeed.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.Message;
import com.google.protobuf.Timestamp;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import com.google.rpc.Status;
import io.changefeed.v1.ChangeEvent;
import io.changefeed.v1.Key;
import io.changefeed.v1.KeyComponent;
import io.changefeed.v1.KeyType;
import io.grpc.Status.Code;
import java.io.IOException;
import java.lang.reflect.Method;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class UnitsTest {
    private static Status status(int code, Message... details) {
        Status.Builder said = Status.newBuilder().setCode(code).setMessage("m");
        Stream.of(details).map(Any::pack).forEach(said::addDetails);
        return said.build();
    }

    private static com.google.protobuf.Duration seconds(long seconds) {
        return com.google.protobuf.Duration.newBuilder().setSeconds(seconds).build();
    }

    @Test
    void anErrorIsDecodedWhole() {
        ErrorInfo info = ErrorInfo.newBuilder()
                .setReason("FIELD_INVALID")
                .putAllMetadata(Map.of(
                        "category", "INVALID_REQUEST",
                        "retryable", "false",
                        "provider", "memory",
                        "request_id", "r",
                        "more", "x"))
                .build();
        RetryInfo retry = RetryInfo.newBuilder().setRetryDelay(seconds(1)).build();
        BadRequest request = BadRequest.newBuilder()
                .addFieldViolations(BadRequest.FieldViolation.newBuilder().setField("a").setDescription("b"))
                .build();
        ChangeFeedException error =
                ChangeFeedException.of(status(Code.INVALID_ARGUMENT.value(), info, retry, request));
        assertEquals(Category.INVALID_REQUEST, error.category());
        assertEquals(Code.INVALID_ARGUMENT, error.code());
        assertEquals(List.of("FIELD_INVALID", "memory", "r"), List.of(error.reason(), error.provider(), error.requestId()));
        assertEquals(Map.of("more", "x"), error.metadata());
        assertEquals(List.of(new ChangeFeedException.FieldViolation("a", "b")), error.violations());
        assertEquals(Duration.ofSeconds(1), error.retryAfter());
        assertEquals("FIELD_INVALID: m [request r]", error.getMessage());
        assertFalse(error.retryable());
    }

    @Test
    void anErrorWithoutDetailsIsJudgedByItsCode() {
        Map.of(
                        Code.UNAVAILABLE.value(), Category.TRANSIENT_FAILURE,
                        Code.INTERNAL.value(), Category.TRANSIENT_FAILURE,
                        Code.DEADLINE_EXCEEDED.value(), Category.TRANSIENT_FAILURE,
                        Code.UNAUTHENTICATED.value(), Category.AUTHENTICATION_FAILED,
                        Code.DATA_LOSS.value(), Category.PROVIDER_ERROR,
                        99, Category.PROVIDER_ERROR)
                .forEach((code, category) -> {
                    ChangeFeedException error = ChangeFeedException.of(status(code));
                    assertEquals(category, error.category());
                    assertEquals(category == Category.TRANSIENT_FAILURE, error.retryable());
                });
        Any broken = Any.newBuilder()
                .setTypeUrl("type.googleapis.com/google.rpc.ErrorInfo")
                .setValue(ByteString.copyFrom(new byte[] {-1, -1}))
                .build();
        Status said = status(Code.UNAVAILABLE.value()).toBuilder().addDetails(broken).build();
        assertTrue(ChangeFeedException.of(said).retryable(), "details that are none are passed over");
    }

    @Test
    void aCategoryOfALaterContractKeepsItsName() {
        ErrorInfo info = ErrorInfo.newBuilder()
                .setReason("R")
                .putMetadata("category", "LATER")
                .build();
        ChangeFeedException error = ChangeFeedException.of(status(Code.UNAVAILABLE.value(), info));
        assertEquals(Category.UNRECOGNIZED, error.category());
        assertEquals("LATER", error.categoryName());
        assertFalse(error.retryable(), "the gateway has answered, and does not call it so");
    }

    private static StreamInterruptedException asking(Duration pause) {
        return new StreamInterruptedException("m", pause, false);
    }

    @Test
    void pausesGrowAndAreNeverShorterThanAsked() {
        Map.of(1, 100L, 4, 800L, 70, 15_000L).forEach((attempts, ceiling) -> {
            for (int round = 0; round < 100; round++) {
                Outage outage = new Outage(null);
                for (int before = 1; before < attempts; before++) {
                    outage.pause(asking(Duration.ZERO), 0);
                }
                long pause = outage.pause(asking(Duration.ZERO), 0);
                assertTrue(pause >= 0 && pause <= TimeUnit.MILLISECONDS.toNanos(ceiling), attempts + ": " + pause);
                long asked = outage.pause(asking(Duration.ofMinutes(1)), 0);
                assertTrue(asked >= 60e9 && asked <= 72e9, "asked for a minute, waits " + asked);
            }
        });
        assertTrue(new Outage(null).pause(asking(Duration.ofDays(9)), 0) <= 720e9, "nobody can mean days");
        assertTrue(new Outage(Duration.ofNanos(1)).pause(asking(Duration.ZERO), 0) <= 1, "beyond its patience");
    }

    @Test
    void anOutageEndsWithWhatIsFinalAndWithItsPatience() {
        ChangeFeedException end = ChangeFeedException.of(status(Code.OUT_OF_RANGE.value()));
        assertSame(end, assertThrows(ChangeFeedException.class, () -> new Outage(null).pause(end, 0)));
        StreamInterruptedException hour = asking(Duration.ofHours(1));
        Outage minute = new Outage(Duration.ofMinutes(1));
        assertThrows(StreamInterruptedException.class, () -> minute.pause(asking(Duration.ofMinutes(2)), 0));
        minute.pause(asking(Duration.ZERO), 0);
        assertThrows(StreamInterruptedException.class, () -> minute.pause(asking(Duration.ZERO), 60_000_000_000L));
        minute.pause(asking(Duration.ZERO), 61_000_000_000L);
        minute.end();
        minute.pause(asking(Duration.ZERO), 999_000_000_000L);
        assertThrows(StreamInterruptedException.class, () -> new Outage(Duration.ofSeconds(-1)).pause(hour, 0));
    }

    @Test
    void timesThatAreNoneDoNoHarm() {
        assertEquals(Duration.ZERO, Spans.span(seconds(-5)));
        assertEquals(Duration.ZERO, Spans.span(seconds(Long.MIN_VALUE)));
        assertTrue(Spans.nanos(Spans.span(seconds(Long.MAX_VALUE)).multipliedBy(2)) > TimeUnit.DAYS.toNanos(9_999));
        assertEquals(Instant.MAX, Spans.instant(Timestamp.newBuilder().setSeconds(Long.MAX_VALUE).build()));
        assertEquals(Instant.MIN, Spans.instant(Timestamp.newBuilder().setSeconds(Long.MIN_VALUE).build()));
        assertEquals(Duration.ofMillis(-1500), Duration.ofSeconds(
                Spans.message(Duration.ofMillis(-1500)).getSeconds(), Spans.message(Duration.ofMillis(-1500)).getNanos()));
    }

    @Test
    void checkpointsChangeSomePositions(@TempDir Path folder) {
        Path file = folder.resolve("positions.json");
        for (Checkpoint checkpoint : List.of(new MemoryCheckpoint(), new FileCheckpoint(file))) {
            assertEquals(Map.of(), checkpoint.load());
            checkpoint.save(Map.of("a", "1", "b", "2"));
            checkpoint.save(Map.of("a", "", "c", "\u6771"));
            assertEquals(Map.of("b", "2", "c", "\u6771"), checkpoint.load());
        }
        assertEquals(Map.of("b", "2", "c", "\u6771"), new FileCheckpoint(file).load(), "a new process finds them");
    }

    @Test
    void aDamagedFileIsNoMissingOne(@TempDir Path folder) throws IOException {
        for (String content : List.of("", "[]", "{\"*\": 1}", "null", "{} {}")) {
            Path file = Files.writeString(folder.resolve("positions.json"), content);
            FileCheckpoint checkpoint = new FileCheckpoint(file);
            assertThrows(IllegalStateException.class, checkpoint::load);
            assertThrows(IllegalStateException.class, () -> checkpoint.save(Map.of("*", "t")));
            assertEquals(content, Files.readString(file));
        }
    }

    @Test
    void aDraftThatIsALinkIsNotFollowed(@TempDir Path folder) throws IOException {
        Path elsewhere = Files.writeString(folder.resolve("elsewhere"), "kept");
        Files.createSymbolicLink(folder.resolve("positions.json.new"), elsewhere);
        new FileCheckpoint(folder.resolve("positions.json")).save(Map.of("*", "t"));
        assertEquals("kept", Files.readString(elsewhere));
        assertFalse(Files.isSymbolicLink(folder.resolve("positions.json")));
    }

    @Test
    void anInterruptedThreadSavesWhatItHandled(@TempDir Path folder) {
        FileCheckpoint checkpoint = new FileCheckpoint(folder.resolve("positions.json"));
        for (String token : List.of("of a file that is new", "of one that is there")) {
            Thread.currentThread().interrupt();
            checkpoint.save(Map.of("*", token));
            assertTrue(Thread.interrupted(), "the flag is kept");
            assertEquals(Map.of("*", token), checkpoint.load());
        }
    }

    @Test
    void theWindowForgetsTheOldest() {
        Seen seen = new Seen(2);
        assertEquals(List.of("a", "b"), fresh(seen, "a", "b", "a"));
        assertEquals(List.of("c"), fresh(seen, "b", "c"));
        assertEquals(List.of("a"), fresh(seen, "a", "c"));
        assertEquals(List.of("a", "a"), fresh(new Seen(0), "a", "a"));
    }

    private static List<String> fresh(Seen seen, String... ids) {
        List<ChangeEvent> events = Stream.of(ids)
                .map(id -> ChangeEvent.newBuilder().setEventId(id).build())
                .toList();
        return seen.fresh(events).stream().map(ChangeEvent::getEventId).toList();
    }

    @Test
    void aBearerTokenNeedsTls() {
        ConnectOptions options = new ConnectOptions().bearer(() -> "t");
        assertThrows(IllegalArgumentException.class, () -> ChangeFeedClient.connect("127.0.0.1:1", options));
    }

    @Test
    void itemsAreOneValueOfJsonWithEveryDigit() throws JsonProcessingException {
        String text = "{\"d\":1.10,\"n\":9007199254740993,\"u\":18446744073709551615}";
        assertEquals(text, Items.parse(text).toString());
        String long_ = "9".repeat(131_072) + "." + "7".repeat(16_383);
        assertEquals(long_, Items.parse(long_).decimalValue().toPlainString());
        for (String none : List.of("", "{", "1 2")) {
            assertThrows(JsonProcessingException.class, () -> Items.parse(none));
        }
    }

    @Test
    void collectionsHaveTwoNames() {
        for (String path : List.of("", "main", "main/", "/documents")) {
            assertThrows(IllegalArgumentException.class, () -> Positions.collection(path));
        }
        assertEquals("a/b", Positions.collection("main/a/b").getCollection());
    }

    @Test
    void theMirrorTellsNullFromAnEmptyText() throws ReflectiveOperationException {
        Key key = Key.newBuilder()
                .addComponents(KeyComponent.newBuilder().setType(KeyType.KEY_TYPE_NULL))
                .addComponents(KeyComponent.newBuilder().setType(KeyType.KEY_TYPE_STRING))
                .build();
        Method name = Class.forName("Mirror").getDeclaredMethod("name", Key.class);
        name.setAccessible(true);
        assertEquals("[null,\"\"]", name.invoke(null, key));
    }

    @Test
    void theProgramOfTheReadmeIsAnExample() throws IOException {
        String example = Files.readString(Path.of("examples/Follow.java"));
        assertTrue(Files.readString(Path.of("README.md")).contains("```java\n" + example + "```\n"));
    }
}
