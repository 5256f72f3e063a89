package changefeed

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/changefeed-gateway/changefeed/clients/go/gen/changefeed/v1"
)

func packed(t *testing.T, messages ...proto.Message) []*anypb.Any {
	t.Helper()
	var all []*anypb.Any
	for _, message := range messages {
		one, err := anypb.New(message)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
	return all
}

func TestAnErrorIsDecodedWhole(t *testing.T) {
	info := &errdetails.ErrorInfo{Reason: "FIELD_INVALID", Metadata: map[string]string{
		"category": "INVALID_REQUEST", "retryable": "false", "provider": "memory", "request_id": "r", "more": "x",
	}}
	violation := &errdetails.BadRequest_FieldViolation{Field: "a", Description: "b"}
	details := packed(t, info, &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{violation}})
	said := status.FromProto(&statuspb.Status{Code: int32(codes.InvalidArgument), Message: "m", Details: details})
	err := FromError(said.Err())
	var failed *Error
	if !errors.As(err, &failed) || !errors.Is(err, InvalidRequest) || errors.Is(err, NotFound) {
		t.Fatalf("not matched: %v", err)
	}
	if failed.Reason != "FIELD_INVALID" || failed.Retryable || failed.Provider != "memory" || failed.RequestID != "r" {
		t.Errorf("decoded as %+v", failed)
	}
	if failed.RetryAfter != time.Second || !maps.Equal(failed.Metadata, map[string]string{"more": "x"}) {
		t.Errorf("decoded as %+v", failed)
	}
	if len(failed.Violations) != 1 || failed.Violations[0] != (FieldViolation{"a", "b"}) {
		t.Errorf("violations %v", failed.Violations)
	}
}

func TestAnErrorWithoutDetailsIsJudgedByItsCode(t *testing.T) {
	for code, want := range map[codes.Code]struct {
		category  Category
		retryable bool
	}{
		codes.Unavailable:      {TransientFailure, true},
		codes.Internal:         {TransientFailure, true},
		codes.DeadlineExceeded: {TransientFailure, true},
		codes.Unauthenticated:  {AuthenticationFailed, false},
		codes.DataLoss:         {ProviderError, false},
		99:                     {ProviderError, false},
	} {
		got := FromStatus(&statuspb.Status{Code: int32(code)})
		if got.Category != want.category || got.Retryable != want.retryable {
			t.Errorf("%v: %v, %v", code, got.Category, got.Retryable)
		}
	}
	broken := &anypb.Any{TypeUrl: "type.googleapis.com/google.rpc.ErrorInfo", Value: []byte{0xff, 0xff}}
	if !FromStatus(&statuspb.Status{Code: int32(codes.Unavailable), Details: []*anypb.Any{broken}}).Retryable {
		t.Error("details that are none are passed over")
	}
}

func TestPausesGrowAndAreNeverShorterThanAsked(t *testing.T) {
	for attempts, ceiling := range map[int]time.Duration{1: 100 * time.Millisecond, 4: 800 * time.Millisecond, 70: 15 * time.Second} {
		o := outage{attempts: attempts}
		for range 100 {
			if pause := o.pause(0, time.Hour); pause > ceiling {
				t.Fatalf("pause %d of %v", attempts, pause)
			}
			if pause := o.pause(time.Minute, time.Hour); pause < time.Minute || pause > 72*time.Second {
				t.Fatalf("asked for a minute, waits %v", pause)
			}
			if pause := o.pause(0, time.Nanosecond); pause > time.Nanosecond {
				t.Fatalf("waits %v beyond its patience", pause)
			}
		}
	}
}

func TestAnOutageEndsWithWhatIsFinalAndWithItsContext(t *testing.T) {
	final := &Error{Category: CheckpointExpired}
	o := outage{patience: -1}
	if err := o.wait(context.Background(), final, nil); !errors.Is(err, CheckpointExpired) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancelling := func(error, time.Duration) { cancel() }
	err := o.wait(ctx, &Interrupted{RetryAfter: time.Hour}, cancelling)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestALengthOfTimeThatIsNoneDoesNoHarm(t *testing.T) {
	for _, seconds := range []int64{-5, 1 << 62, -(1 << 62)} {
		if got := span(&durationpb.Duration{Seconds: seconds}); got < 0 || seconds > 0 && got < longestAsked {
			t.Errorf("%d s is %v", seconds, got)
		}
	}
	s := &stream{}
	opened := &pb.SubscriptionOpened{HeartbeatInterval: &durationpb.Duration{Seconds: 1 << 62}}
	err := s.check(&pb.SubscribeResponse{DeliverySequence: 1, Content: &pb.SubscribeResponse_Opened{Opened: opened}})
	if err != nil || s.silence < longestAsked {
		t.Errorf("silence %v, %v", s.silence, err)
	}
}

func TestCheckpointsChangeSomePositions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "positions.json")
	for _, checkpoint := range []Checkpoint{&MemoryCheckpoint{}, &FileCheckpoint{Path: path}} {
		ctx := context.Background()
		for _, changes := range []Positions{{"a": "1", "b": "2"}, {"a": "", "c": "3"}} {
			if err := checkpoint.Save(ctx, changes); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := checkpoint.Load(ctx); err != nil || !maps.Equal(got, Positions{"b": "2", "c": "3"}) {
			t.Errorf("%T: %v, %v", checkpoint, got, err)
		}
	}
	again := &FileCheckpoint{Path: path}
	if got, err := again.Load(context.Background()); err != nil || len(got) != 2 {
		t.Errorf("a new process finds %v, %v", got, err)
	}
}

func TestADamagedFileIsNoMissingOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "positions.json")
	for _, content := range []string{"", "[]", `{"*": 1}`, "null"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		checkpoint := &FileCheckpoint{Path: path}
		if _, err := checkpoint.Load(context.Background()); err == nil {
			t.Errorf("%q was read", content)
		}
		if err := checkpoint.Save(context.Background(), Positions{"*": "t"}); err == nil {
			t.Errorf("%q was replaced", content)
		}
	}
}

func TestACheckpointIsNeverWrittenThroughALinkOfSomebodyElse(t *testing.T) {
	folder := t.TempDir()
	precious, path := filepath.Join(folder, "precious"), filepath.Join(folder, "positions.json")
	if err := os.WriteFile(precious, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(precious, path+".new"); err != nil {
		t.Fatal(err)
	}
	if err := (&FileCheckpoint{Path: path}).Save(context.Background(), Positions{Whole: "t"}); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(precious); err != nil || string(content) != "precious" {
		t.Errorf("overwritten by %q, %v", content, err)
	}
}

func TestTheWindowForgetsTheOldest(t *testing.T) {
	s := newSeen(2)
	events := func(ids ...string) (all []*pb.ChangeEvent) {
		for _, id := range ids {
			all = append(all, &pb.ChangeEvent{EventId: id})
		}
		return all
	}
	for _, step := range []struct{ in, out int }{{len(s.fresh(events("a", "b", "a"))), 2}, {len(s.fresh(events("b", "c"))), 1}, {len(s.fresh(events("a", "c"))), 1}} {
		if step.in != step.out {
			t.Errorf("%d fresh in place of %d", step.in, step.out)
		}
	}
}

func TestABearerTokenNeedsTLS(t *testing.T) {
	if _, err := Dial("127.0.0.1:1", WithBearer(func(context.Context) (string, error) { return "t", nil })); err == nil {
		t.Error("it would be sent in plaintext")
	}
}

func TestItemsAreOneValueOfJSON(t *testing.T) {
	var item any
	for _, text := range []string{"", "{", "1 2"} {
		if DecodeItem(text, &item) == nil {
			t.Errorf("%q was read", text)
		}
	}
}

func TestCollectionsHaveTwoNames(t *testing.T) {
	for _, path := range []string{"", "main", "main/", "/documents"} {
		if _, err := Collection(path); err == nil {
			t.Errorf("%q was taken", path)
		}
	}
}
