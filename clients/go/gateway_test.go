package changefeed

import (
	"context"
	"errors"
	"net"
	"path"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/changefeed-gateway/changefeed/clients/go/gen/changefeed/v1"
)

type subscriber = grpc.ServerStreamingServer[pb.SubscribeResponse]

var errOwn = errors.New("a reason of the caller's own")

// gateway answers what a test has it answer. Whatever else is asked waits for its caller's end.
type gateway struct {
	pb.UnimplementedChangeFeedServiceServer
	answer    func(ctx context.Context, method string, request any) (any, error)
	subscribe func(request *pb.SubscribeRequest, to subscriber) error
	asked     chan string // Methods, of what is left waiting.
}

func (g *gateway) wait(ctx context.Context, method string) error {
	g.asked <- method
	<-ctx.Done()
	return ctx.Err()
}

func (g *gateway) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
	method := path.Base(info.FullMethod)
	if g.answer != nil {
		if said, err := g.answer(ctx, method, request); said != nil || err != nil {
			return said, err
		}
	}
	return nil, g.wait(ctx, method)
}

func (g *gateway) Subscribe(request *pb.SubscribeRequest, to subscriber) error {
	if g.subscribe != nil {
		return g.subscribe(request, to)
	}
	return g.wait(to.Context(), "Subscribe")
}

// serve starts a gateway and answers its address.
func serve(t *testing.T, g *gateway, options ...grpc.ServerOption) string {
	t.Helper()
	g.asked = make(chan string, 100)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(append(options, grpc.UnaryInterceptor(g.unary))...)
	pb.RegisterChangeFeedServiceServer(server, g)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

func dialled(t *testing.T, target string, options ...Option) *Client {
	t.Helper()
	client, err := Dial(target, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// opened is what a stream says first.
func opened(token string, heartbeats time.Duration) *pb.SubscribeResponse {
	return &pb.SubscribeResponse{DeliverySequence: 1, Content: &pb.SubscribeResponse_Opened{Opened: &pb.SubscriptionOpened{
		ContinuationToken: token, HeartbeatInterval: durationpb.New(heartbeats),
	}}}
}

// retire says all that the stream of a partition says which has no changes and is retired.
func retire(to subscriber, children ...*pb.ChildPartition) error {
	retired := &pb.PartitionRetired{ContinuationToken: "retired", ChildPartitions: children}
	closing := &pb.Closing{ContinuationToken: "closed", Reason: pb.ClosingReason_CLOSING_REASON_PARTITION_RETIRED}
	return errors.Join(
		to.Send(opened("opened", time.Hour)),
		to.Send(&pb.SubscribeResponse{
			DeliverySequence: 2, Content: &pb.SubscribeResponse_PartitionRetired{PartitionRetired: retired},
		}),
		to.Send(&pb.SubscribeResponse{DeliverySequence: 3, Content: &pb.SubscribeResponse_Closing{Closing: closing}}),
	)
}

// said is what a channel brings; a test that waits in vain fails.
func said[T any](t *testing.T, from <-chan T) (got T) {
	t.Helper()
	select {
	case got = <-from:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came")
	}
	return got
}

// begun is the error of what runs meanwhile.
func begun(run func() error) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- run() }()
	return ended
}
