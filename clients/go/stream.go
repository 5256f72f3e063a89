package changefeed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/changefeed-gateway/changefeed/clients/go/gen/changefeed/v1"
)

const (
	// How long a stream may take to send its first message.
	longestOpening   = 20 * time.Second
	missedHeartbeats = 2
)

// stream is one call of Subscribe, with its watchdog.
type stream struct {
	cancel   context.CancelFunc
	call     func() (grpc.ServerStreamingClient[pb.SubscribeResponse], error)
	open     grpc.ServerStreamingClient[pb.SubscribeResponse]
	silence  time.Duration
	sequence int64
}

func openStream(ctx context.Context, service pb.ChangeFeedServiceClient, request *pb.SubscribeRequest) *stream {
	ctx, cancel := context.WithCancel(ctx)
	return &stream{
		cancel:  cancel,
		silence: longestOpening,
		call: func() (grpc.ServerStreamingClient[pb.SubscribeResponse], error) {
			return service.Subscribe(ctx, request)
		},
	}
}

func (s *stream) close() { s.cancel() }

// read waits for the next message. The watchdog runs only here: while the reader handles what came, silence is its own.
func (s *stream) read(ctx context.Context) (*pb.SubscribeResponse, error) {
	var missed atomic.Bool
	watchdog := time.AfterFunc(s.silence, func() {
		missed.Store(true)
		s.cancel()
	})
	message, err := s.receive()
	watchdog.Stop()
	switch {
	case err == nil:
		return message, s.check(message)
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case missed.Load():
		return nil, &Interrupted{Message: fmt.Sprintf("nothing arrived for %v", s.silence), HeartbeatMissed: true}
	case errors.Is(err, io.EOF):
		return nil, &Interrupted{Message: "the stream ended without saying why"}
	default:
		return nil, FromError(err)
	}
}

func (s *stream) receive() (*pb.SubscribeResponse, error) {
	if s.open == nil {
		open, err := s.call()
		if err != nil {
			return nil, err
		}
		s.open = open
	}
	return s.open.Recv()
}

func (s *stream) check(message *pb.SubscribeResponse) error {
	s.sequence++
	if message.GetDeliverySequence() != s.sequence { // What is missing in between is asked for again.
		return &Interrupted{
			Message: fmt.Sprintf("message %d came where %d was due", message.GetDeliverySequence(), s.sequence),
		}
	}
	if opened := message.GetOpened(); opened != nil {
		s.silence = longestOpening
		if interval := span(opened.GetHeartbeatInterval()); interval > 0 {
			s.silence = max(interval, interval*missedHeartbeats) // No overflow of an interval beyond any calendar.
		}
	}
	return nil
}

func isPreamble(message *pb.SubscribeResponse) bool {
	if changed := message.GetStateChanged(); changed != nil {
		return changed.GetState() != pb.SubscriptionState_SUBSCRIPTION_STATE_LIVE
	}
	return message.GetOpened() != nil
}

func isFinal(reason pb.ClosingReason) bool {
	return reason == pb.ClosingReason_CLOSING_REASON_MAX_EVENTS ||
		reason == pb.ClosingReason_CLOSING_REASON_PARTITION_RETIRED
}

// placed is what a message says of its token.
type placed interface {
	GetContinuationToken() string
	GetTokenExpireTime() *timestamppb.Timestamp
}

func (d *Delivery) place(message placed) {
	d.ContinuationToken = message.GetContinuationToken()
	if at := message.GetTokenExpireTime(); at != nil {
		d.TokenExpireTime = at.AsTime()
	}
}
