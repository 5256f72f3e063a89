package changefeed

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	pb "github.com/changefeed-gateway/changefeed/clients/go/gen/changefeed/v1"
)

// everyWay is all that can be asked of a client. None of them may take its end for an outage.
func everyWay(t *testing.T, client *Client) map[string]func(context.Context) error {
	address := &pb.ResourceAddress{}
	quiet := []TailOption{WithPatience(0), WithReconnects(func(err error, _ time.Duration) { t.Errorf("told of %v", err) })}
	return map[string]func(context.Context) error{
		"ReadPage": func(ctx context.Context) error {
			_, err := client.ReadPage(ctx, &pb.ReadChangesRequest{})
			return err
		},
		"Partitions": func(ctx context.Context) (err error) {
			for _, err = range client.Partitions(ctx, address) {
			}
			return err
		},
		"Capabilities": func(ctx context.Context) error {
			_, err := client.Capabilities(ctx, address)
			return err
		},
		"Resolve": func(ctx context.Context) error {
			_, err := client.Resolve(ctx, address, Now(), nil)
			return err
		},
		"Inspect": func(ctx context.Context) error {
			_, err := client.Inspect(ctx, address, "t")
			return err
		},
		"Tail": func(ctx context.Context) (err error) {
			for _, err = range client.Tail(ctx, address, Now(), quiet...) {
			}
			return err
		},
		"ReadPartitions": func(ctx context.Context) error {
			handle := func(context.Context, string, Delivery) error { return nil }
			return client.ReadPartitions(ctx, address, Now(), &MemoryCheckpoint{}, handle, quiet...)
		},
	}
}

func TestACallersContextComesBackAsItsCause(t *testing.T) {
	g := &gateway{}
	for name, run := range everyWay(t, dialled(t, serve(t, g))) {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(context.Background())
			ended := begun(func() error { return run(ctx) })
			said(t, g.asked)
			cancel(errOwn)
			if err := said(t, ended); err != errOwn {
				t.Errorf("cancelled: %v", err)
			}
			for range 20 { // Each has another one of three clocks be the first.
				ctx, cancel := context.WithTimeoutCause(context.Background(), 5*time.Millisecond, errOwn)
				if err := run(ctx); err != errOwn {
					t.Errorf("expired: %v", err)
				}
				cancel()
			}
		})
	}
}

// late has passed its deadline and does not know it yet, as a context whose timer is behind.
type late struct{ context.Context }

func (late) Deadline() (time.Time, bool) { return time.Now().Add(-time.Nanosecond), true }

func TestAGatewayThatSeesADeadlineFirstIsNotTakenForAnOutage(t *testing.T) {
	client := dialled(t, "127.0.0.1:1")
	expired := &Error{Code: codes.DeadlineExceeded, Retryable: true}
	r := &partitionReader{client: client, settings: chosen(nil, []TailOption{WithPatience(0)})}
	tail := &tail{client: client, settings: r.settings}
	for name, run := range map[string]func(context.Context) error{
		"call": client.ended,
		"tail": func(ctx context.Context) error { return tail.recover(ctx, expired) },
		"partitions": func(ctx context.Context) error {
			_, err := patiently(ctx, r, func(context.Context) (bool, error) { return false, expired })
			return err
		},
	} {
		ctx, cancel := context.WithCancelCause(context.Background())
		time.AfterFunc(10*time.Millisecond, func() { cancel(errOwn) })
		if err := run(late{ctx}); err != errOwn {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestACallsOwnDeadlineIsAnOutage(t *testing.T) {
	client := dialled(t, serve(t, &gateway{}))
	ctx := context.Background()
	_, err := call(ctx, client, time.Millisecond, client.service.ReadChanges, &pb.ReadChangesRequest{})
	var failed *Error
	if !errors.As(err, &failed) || failed.Code != codes.DeadlineExceeded || !failed.Retryable {
		t.Errorf("got %v", err)
	}
	if !errors.Is(err, TransientFailure) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestAReaderOfPartitionsEndsAsItsContextWhereverItIs(t *testing.T) {
	for _, where := range []string{"Load", "ListPhysicalPartitions", "ResolveStartPosition", "Subscribe", "handle"} {
		t.Run(where, func(t *testing.T) {
			g := &gateway{answer: func(_ context.Context, method string, _ any) (any, error) {
				if method == where {
					return nil, nil
				}
				return onePartition(method), nil
			}}
			if where == "handle" {
				g.subscribe = func(_ *pb.SubscribeRequest, to subscriber) error {
					to.Send(opened("t", time.Hour))
					return nil
				}
			}
			client := dialled(t, serve(t, g))
			handle := func(ctx context.Context, _ string, _ Delivery) error { return g.wait(ctx, where) }
			var checkpoint Checkpoint = &MemoryCheckpoint{}
			if where == "Load" {
				checkpoint = waiting{g}
			}
			ctx, cancel := context.WithCancelCause(context.Background())
			ended := begun(func() error {
				return client.ReadPartitions(ctx, &pb.ResourceAddress{}, Now(), checkpoint, handle, WithPatience(0))
			})
			said(t, g.asked)
			cancel(errOwn)
			if err := said(t, ended); err != errOwn {
				t.Errorf("got %v", err)
			}
		})
	}
}

// waiting is a checkpoint whose database does not answer.
type waiting struct{ *gateway }

func (w waiting) Load(ctx context.Context) (Positions, error) { return nil, w.wait(ctx, "Load") }
func (w waiting) Save(ctx context.Context, _ Positions) error { return w.wait(ctx, "Save") }

func onePartition(method string) any {
	if method == "ListPhysicalPartitions" {
		return &pb.ListPhysicalPartitionsResponse{Partitions: []*pb.PhysicalPartition{{PartitionId: "p"}}}
	}
	return &pb.ResolveStartPositionResponse{ContinuationToken: "t"}
}

func TestCloseEndsWhatIsUnderWayAndWhatComesLater(t *testing.T) {
	g := &gateway{}
	target := serve(t, g)
	for name := range everyWay(t, dialled(t, target)) {
		t.Run(name, func(t *testing.T) {
			client := dialled(t, target)
			run := everyWay(t, client)[name]
			ended := begun(func() error { return run(context.Background()) })
			said(t, g.asked)
			client.Close()
			for _, when := range []string{"under way", "later"} {
				if err := said(t, ended); !errors.Is(err, ErrClosed) || isRetryable(err) {
					t.Errorf("%s: %v", when, err)
				}
				ended = begun(func() error { return run(context.Background()) })
			}
			said(t, ended)
		})
	}
}

func TestCloseEndsATailWithAConnectionOfItsOwn(t *testing.T) {
	var streams atomic.Int32
	live := make(chan bool, 1)
	client := dialled(t, serve(t, &gateway{subscribe: func(_ *pb.SubscribeRequest, to subscriber) error {
		interval := 10 * time.Millisecond
		if streams.Add(1) > 1 {
			interval = time.Hour
		}
		to.Send(opened("t", interval))
		if interval == time.Hour {
			live <- true
		}
		<-to.Context().Done()
		return nil
	}}))
	told := 0
	count := WithReconnects(func(error, time.Duration) { told++ })
	ended := begun(func() (err error) {
		for _, err = range client.Tail(context.Background(), &pb.ResourceAddress{}, Now(), count) {
		}
		return err
	})
	said(t, live)
	client.Close()
	if err := said(t, ended); !errors.Is(err, ErrClosed) || told != 1 {
		t.Errorf("told %d times, then %v", told, err)
	}
}

func TestATailOfAClosedClientDialsNobodyAndTellsNothing(t *testing.T) {
	client := dialled(t, "127.0.0.1:1")
	client.Close()
	settings := chosen(nil, []TailOption{WithReconnects(func(err error, _ time.Duration) { t.Errorf("told of %v", err) })})
	tail := &tail{client: client, settings: settings}
	// The connection's end may be seen before that of the joined context.
	err := tail.recover(context.Background(), &Interrupted{HeartbeatMissed: true})
	if err != ErrClosed || tail.own != nil {
		t.Errorf("got %v", err)
	}
}

func TestWhatWasHandledIsSavedAlsoWhenTheClientWasClosedMeanwhile(t *testing.T) {
	client := dialled(t, serve(t, &gateway{subscribe: func(_ *pb.SubscribeRequest, to subscriber) error {
		return to.Send(opened("t", time.Hour))
	}}))
	place := &livingCheckpoint{}
	for _, err := range client.Tail(context.Background(), &pb.ResourceAddress{}, Now(), WithCheckpoint(place)) {
		if err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		client.Close()
	}
	if place.positions[Whole] != "t" {
		t.Errorf("saved %v", place.positions)
	}
}

// livingCheckpoint saves as a database does: not once its context has ended.
type livingCheckpoint struct{ MemoryCheckpoint }

func (l *livingCheckpoint) Save(ctx context.Context, changes Positions) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return l.MemoryCheckpoint.Save(ctx, changes)
}
