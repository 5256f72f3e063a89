package changefeed

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/changefeed-gateway/changefeed/clients/go/gen/changefeed/v1"
)

// Delivery is what one message of a stream brought. Handle the events, then save the token: a restart goes on after them.
type Delivery struct {
	// Events are in order for every key; none for a heartbeat and the like.
	Events []*pb.ChangeEvent
	// ContinuationToken is never empty.
	ContinuationToken string
	// Live says that everything that was there has been delivered, and changes arrive as they are committed.
	Live bool
	// Watermark: everything committed before it has been delivered; zero where the provider cannot tell.
	Watermark time.Time
	// TokenExpireTime is when the token is expected to lose its history; zero where the retention is not known.
	TokenExpireTime time.Time
	// Children are the partitions to go on with when the one that was read is retired; the tail ends then.
	Children []*pb.ChildPartition
	// Snapshot says how far the snapshot has come, in a delivery of one; it is finished in the one that ends it, which has
	// no events.
	Snapshot *pb.SnapshotProgress
	// Warnings are what the gateway warns of when a tail begins: on its first delivery only.
	Warnings []*pb.PortabilityWarning
}

// TailOption says how a tail reads.
type TailOption func(*tailSettings)

type tailSettings struct {
	request    pb.SubscribeRequest
	checkpoint Checkpoint
	patience   time.Duration
	window     int
	announce   func(error, time.Duration)
	only       []string
}

// WithScope reads a part of the collection.
func WithScope(scope *pb.FeedScope) TailOption {
	return func(s *tailSettings) { s.request.Scope = scope }
}

// WithItems says whether events carry the item after the change.
func WithItems(mode pb.NewItemStateMode) TailOption {
	return func(s *tailSettings) { s.request.NewItemStateMode = mode }
}

// WithBatches bounds the events of a batch.
func WithBatches(most int32) TailOption {
	return func(s *tailSettings) { s.request.MaxBatchSize = most }
}

// WithHeartbeats asks for one after so long a silence; after two that did not come the stream is opened again.
func WithHeartbeats(interval time.Duration) TailOption {
	return func(s *tailSettings) { s.request.HeartbeatInterval = durationpb.New(interval) }
}

// WithMaxEvents ends the tail after so many events, reconnects included.
func WithMaxEvents(most int64) TailOption {
	return func(s *tailSettings) { s.request.MaxEvents = most }
}

// WithPatience bounds an outage, from its first failure on; without it a tail reconnects for ever.
func WithPatience(longest time.Duration) TailOption {
	return func(s *tailSettings) { s.patience = max(longest, 0) }
}

// WithCheckpoint starts at the saved position, or at the start if there is none, and saves each delivery's token when
// the loop asks for the next one: its body has then handled the delivery. A loop that is left saves nothing of its last
// delivery, which comes again.
func WithCheckpoint(checkpoint Checkpoint) TailOption {
	return func(s *tailSettings) { s.checkpoint = checkpoint }
}

// WithDeduplication leaves out events that are among the last so many by their id. Redelivery follows a reconnect; after
// a restart the window is empty, so work that must not be done twice is saved in one transaction with the token.
func WithDeduplication(last int) TailOption { return func(s *tailSettings) { s.window = last } }

// WithReconnects tells of every interruption and of the pause before it is tried again. Without it an outage is silent.
// ReadPartitions tells of its calls too, and from several goroutines.
func WithReconnects(told func(err error, pause time.Duration)) TailOption {
	return func(s *tailSettings) { s.announce = told }
}

func chosen(address *pb.ResourceAddress, options []TailOption) *tailSettings {
	settings := &tailSettings{patience: -1, announce: func(error, time.Duration) {}}
	settings.request.Address = address
	for _, option := range options {
		option(settings)
	}
	return settings
}

// Tail follows a collection live, and opens a new stream from the last token whenever one breaks. It ends when the events
// of WithMaxEvents have come or the partition that is read is retired; an error is its last value: an *Error that is
// final, the outage that outlasted patience, what the checkpoint returned, the context's cause, or ErrClosed. Delivery is
// at least once.
func (c *Client) Tail(
	ctx context.Context, address *pb.ResourceAddress, start *pb.StartPosition, options ...TailOption,
) iter.Seq2[Delivery, error] {
	return func(yield func(Delivery, error) bool) {
		settings := chosen(address, options)
		var err error
		if settings.request.StartPosition, err = settings.resume(ctx, start); err != nil {
			yield(Delivery{}, err)
			return
		}
		t := &tail{client: c, service: c.service, settings: settings, seen: newSeen(settings.window)}
		defer t.close()
		joined, leave := c.joined(ctx)
		defer leave(nil)
		for {
			delivery, err := t.next(joined)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(Delivery{}, err)
				return
			}
			if !yield(delivery, nil) {
				return
			}
			if err := settings.save(ctx, delivery.ContinuationToken); err != nil {
				yield(Delivery{}, err)
				return
			}
		}
	}
}

func (s *tailSettings) resume(ctx context.Context, start *pb.StartPosition) (*pb.StartPosition, error) {
	if s.checkpoint == nil {
		return start, nil
	}
	positions, err := s.checkpoint.Load(ctx)
	if err != nil {
		return nil, err
	}
	if token := positions[s.name()]; token != "" {
		return After(token), nil
	}
	return start, nil
}

func (s *tailSettings) save(ctx context.Context, token string) error {
	if s.checkpoint == nil {
		return nil
	}
	return s.checkpoint.Save(ctx, Positions{s.name(): token})
}

func (s *tailSettings) name() string {
	if id := s.request.GetScope().GetPhysicalPartitionId(); id != "" {
		return id
	}
	return Whole
}

// tail is one iteration: the position, and the stream that is open.
type tail struct {
	client    *Client
	service   pb.ChangeFeedServiceClient
	own       *grpc.ClientConn // Dialled anew when the client's was dead.
	settings  *tailSettings
	stream    *stream
	outage    outage
	seen      *seen
	token     string
	live      bool
	delivered int64
	ended     bool
}

func (t *tail) next(ctx context.Context) (Delivery, error) {
	t.outage.patience = t.settings.patience
	for !t.ended {
		message, err := t.receive(ctx)
		if err != nil {
			t.hangUp()
			if err := t.recover(ctx, err); err != nil {
				return Delivery{}, err
			}
			continue
		}
		t.outage.over()
		if delivery, says := t.take(message); says {
			return delivery, nil
		}
	}
	return Delivery{}, io.EOF
}

// receive is the next message, from a new stream if the last one broke. What every new stream says first is passed over
// when it is not the first one: only what follows counts as progress that ends the growth of pauses.
func (t *tail) receive(ctx context.Context) (*pb.SubscribeResponse, error) {
	reopening := t.stream == nil && t.token != ""
	if t.stream == nil {
		t.stream = openStream(ctx, t.service, t.nextRequest())
	}
	message, err := t.stream.read(ctx)
	for err == nil && reopening && isPreamble(message) {
		message, err = t.stream.read(ctx)
	}
	if err != nil {
		return nil, err
	}
	return message, t.interruption(message)
}

// interruption is what makes a message the end of its stream: a farewell, or the lack of a token to go on from.
func (t *tail) interruption(message *pb.SubscribeResponse) error {
	token := t.token
	switch content := message.GetContent().(type) {
	case *pb.SubscribeResponse_Closing:
		token = content.Closing.GetContinuationToken()
		if reason := content.Closing.GetReason(); !isFinal(reason) {
			if token != "" {
				t.move(token)
			}
			after := span(content.Closing.GetReconnectAfter())
			return &Interrupted{Message: "closed by the gateway: " + reason.String(), RetryAfter: after}
		}
	case *pb.SubscribeResponse_Opened:
		token = content.Opened.GetContinuationToken()
	case *pb.SubscribeResponse_Batch:
		token = content.Batch.GetContinuationToken()
	case *pb.SubscribeResponse_Heartbeat:
		token = content.Heartbeat.GetContinuationToken()
	case *pb.SubscribeResponse_PartitionRetired:
		token = content.PartitionRetired.GetContinuationToken()
	case *pb.SubscribeResponse_SnapshotFinished:
		token = content.SnapshotFinished.GetContinuationToken()
	case *pb.SubscribeResponse_StateChanged:
	default:
		return nil // Of a later contract.
	}
	if token == "" {
		return &Interrupted{Message: "a message came without a token"}
	}
	return nil
}

// take moves the position over a message and says what it brought; nothing for a message of a later contract.
func (t *tail) take(message *pb.SubscribeResponse) (Delivery, bool) {
	delivery := Delivery{ContinuationToken: t.token}
	switch content := message.GetContent().(type) {
	case *pb.SubscribeResponse_Opened:
		delivery.place(content.Opened)
		delivery.Warnings = content.Opened.GetWarnings()
	case *pb.SubscribeResponse_Batch:
		delivery.place(content.Batch)
		if at := content.Batch.GetWatermark(); at != nil {
			delivery.Watermark = at.AsTime()
		}
		delivery.Snapshot = content.Batch.GetSnapshot()
		t.delivered += int64(len(content.Batch.GetEvents()))
		delivery.Events = t.seen.fresh(content.Batch.GetEvents())
	case *pb.SubscribeResponse_Heartbeat:
		delivery.place(content.Heartbeat)
		if at := content.Heartbeat.GetWatermark(); at != nil {
			delivery.Watermark = at.AsTime()
		}
	case *pb.SubscribeResponse_PartitionRetired:
		delivery.ContinuationToken = content.PartitionRetired.GetContinuationToken()
		delivery.Children = content.PartitionRetired.GetChildPartitions()
	case *pb.SubscribeResponse_SnapshotFinished:
		delivery.place(content.SnapshotFinished)
		delivery.Snapshot = content.SnapshotFinished.GetSnapshot()
	case *pb.SubscribeResponse_StateChanged:
		t.live = content.StateChanged.GetState() == pb.SubscriptionState_SUBSCRIPTION_STATE_LIVE
	case *pb.SubscribeResponse_Closing:
		delivery.ContinuationToken = content.Closing.GetContinuationToken()
		t.ended = true
	default:
		return Delivery{}, false
	}
	if most := t.settings.request.GetMaxEvents(); most > 0 && t.delivered >= most {
		t.ended = true
	}
	t.move(delivery.ContinuationToken)
	delivery.Live = t.live
	return delivery, true
}

func (t *tail) move(token string) {
	t.token = token
	t.settings.request.StartPosition = After(token)
}

func (t *tail) nextRequest() *pb.SubscribeRequest {
	request := proto.Clone(&t.settings.request).(*pb.SubscribeRequest)
	if request.GetMaxEvents() > 0 {
		request.MaxEvents -= t.delivered
	}
	return request
}

func (t *tail) recover(ctx context.Context, err error) error {
	if ended := t.client.ended(ctx); ended != nil {
		return ended
	}
	var interrupted *Interrupted
	if errors.As(err, &interrupted) && interrupted.HeartbeatMissed {
		// gRPC itself would use a dead connection again until a keepalive ping finds out.
		if err := t.redial(); err != nil {
			return err
		}
	}
	return t.outage.wait(ctx, err, t.settings.announce)
}

func (t *tail) redial() error {
	conn, err := t.client.dial()
	if err != nil {
		return err
	}
	if t.own != nil {
		t.own.Close()
	}
	t.own, t.service = conn, pb.NewChangeFeedServiceClient(conn)
	return nil
}

func (t *tail) hangUp() {
	t.live = false
	if t.stream != nil {
		t.stream.close()
		t.stream = nil
	}
}

func (t *tail) close() {
	t.hangUp()
	if t.own != nil {
		t.own.Close()
	}
}
