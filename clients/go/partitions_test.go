package changefeed

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/changefeed-gateway/changefeed/clients/go/gen/changefeed/v1"
)

// errLost is what a client itself tries again, and gRPC does not.
var errLost = status.Error(codes.Internal, "lost on the way")

func passed(context.Context, string, Delivery) error { return nil }

func TestAReaderOfPartitionsGoesThroughOutagesWhereverItAsks(t *testing.T) {
	var mutex sync.Mutex
	var asked []string
	g := &gateway{
		answer: func(ctx context.Context, method string, request any) (any, error) {
			mutex.Lock()
			defer mutex.Unlock()
			asked = append(asked, method)
			if at, has := ctx.Deadline(); !has || time.Until(at) > deadline+time.Second {
				t.Errorf("%s may take until %v", method, at)
			}
			if len(asked)%2 == 1 {
				return nil, errLost
			}
			return onePartition(method), nil
		},
		subscribe: func(request *pb.SubscribeRequest, to subscriber) error {
			if request.GetScope().GetPhysicalPartitionId() == "child" {
				return retire(to)
			}
			return retire(to, &pb.ChildPartition{
				PartitionId: "child", ParentPartitionIds: []string{"p", "unknown"}, ContinuationToken: "t",
			})
		},
	}
	told := 0
	count := WithReconnects(func(error, time.Duration) { told++ })
	// Time for all of the reading is no time for one call.
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	client := dialled(t, serve(t, g))
	err := client.ReadPartitions(ctx, &pb.ResourceAddress{}, Beginning(), &MemoryCheckpoint{}, passed, count)
	listing, fixing := "ListPhysicalPartitions", "ResolveStartPosition"
	want := []string{listing, listing, fixing, fixing, listing, listing}
	if err != nil || told != 3 || !slices.Equal(asked, want) {
		t.Errorf("told %d times, asked %v: %v", told, asked, err)
	}
}

func TestAReaderOfPartitionsHasPatience(t *testing.T) {
	for code, isTold := range map[codes.Code]bool{codes.Internal: true, codes.PermissionDenied: false} {
		client := dialled(t, serve(t, &gateway{answer: func(context.Context, string, any) (any, error) {
			return nil, status.Error(code, "no")
		}}))
		told := 0
		options := []TailOption{WithReconnects(func(error, time.Duration) { told++ }), WithPatience(100 * time.Millisecond)}
		err := client.ReadPartitions(
			context.Background(), &pb.ResourceAddress{}, Now(), &MemoryCheckpoint{}, passed, options...,
		)
		var failed *Error
		if !errors.As(err, &failed) || failed.Code != code || (told > 0) != isTold {
			t.Errorf("told %d times, then %v", told, err)
		}
	}
}

func TestWhatFailsWhereAPartitionRetiresIsToldAsItIs(t *testing.T) {
	client := dialled(t, serve(t, &gateway{
		answer:    func(_ context.Context, method string, _ any) (any, error) { return onePartition(method), nil },
		subscribe: func(_ *pb.SubscribeRequest, to subscriber) error { return retire(to) },
	}))
	err := client.ReadPartitions(context.Background(), &pb.ResourceAddress{}, Now(), &keeping{}, passed)
	if err != errOwn {
		t.Errorf("got %v", err)
	}
}

// keeping is a checkpoint that cannot remove.
type keeping struct{ MemoryCheckpoint }

func (k *keeping) Save(ctx context.Context, changes Positions) error {
	for _, token := range changes {
		if token == "" {
			return errOwn
		}
	}
	return k.MemoryCheckpoint.Save(ctx, changes)
}

func TestWhatFailsElsewhereEndsAReaderThatWaitsForTheGateway(t *testing.T) {
	isOut := make(chan struct{})
	var once sync.Once
	g := &gateway{
		answer: func(context.Context, string, any) (any, error) { return nil, errLost },
		subscribe: func(request *pb.SubscribeRequest, to subscriber) error {
			if request.GetScope().GetPhysicalPartitionId() == "other" {
				return to.Send(opened("t", time.Hour))
			}
			return retire(to, &pb.ChildPartition{
				PartitionId: "child", ParentPartitionIds: []string{"unknown"}, ContinuationToken: "t",
			})
		},
	}
	client := dialled(t, serve(t, g))
	r := &partitionReader{
		client: client, address: &pb.ResourceAddress{}, checkpoint: &MemoryCheckpoint{}, settings: chosen(nil, nil),
		positions: Positions{"p": "t", "other": "t"}, parents: map[string][]string{}, running: map[string]bool{},
		ended: make(chan partitionEnd),
		handle: func(_ context.Context, id string, _ Delivery) error {
			if id == "other" {
				<-isOut
				return errOwn
			}
			return nil
		},
	}
	r.settings.announce = func(error, time.Duration) { once.Do(func() { close(isOut) }) }
	ctx, end := client.joined(context.Background())
	r.fail = end
	if err := said(t, begun(func() error { return r.run(ctx) })); err != errOwn {
		t.Errorf("got %v", err)
	}
}
