// Package changefeed consumes the change-feed gateway: its tails watch heartbeats, reconnect and resume.
//
//	client, err := changefeed.Dial("127.0.0.1:50051")
//	...
//	for delivery, err := range client.Tail(ctx, documents, changefeed.Beginning()) {
//		if err != nil {
//			return err
//		}
//		for _, event := range delivery.Events {
//			fmt.Println(event.GetChangeType(), event.GetKey().GetPartitionKey(), event.GetNewItemJson())
//		}
//		save(delivery.ContinuationToken)
//	}
package changefeed

import (
	"context"
	"crypto/tls"
	"errors"
	"iter"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	pb "github.com/changefeed-gateway/changefeed/clients/go/gen/changefeed/v1"
)

// Retries of unary calls inside gRPC. A stream is not retried there: resuming needs its last token.
const serviceConfig = `{"methodConfig": [{
  "name": [
    {"service": "changefeed.v1.ChangeFeedService", "method": "ReadChanges"},
    {"service": "changefeed.v1.ChangeFeedService", "method": "ListPhysicalPartitions"},
    {"service": "changefeed.v1.ChangeFeedService", "method": "GetCapabilities"},
    {"service": "changefeed.v1.ChangeFeedService", "method": "ResolveStartPosition"},
    {"service": "changefeed.v1.ChangeFeedService", "method": "InspectContinuationToken"}
  ],
  "retryPolicy": {
    "maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "2s", "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"]
  }
}]}`

const deadline = 30 * time.Second

var reconnecting = backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: jitter, MaxDelay: 2 * time.Second}

// Client is one gateway. Its methods may be called from several goroutines. A context that ends a call or a tail comes
// back as its cause, context.Cause(ctx), and never as an error that may be tried again.
type Client struct {
	dial    func() (*grpc.ClientConn, error)
	conn    *grpc.ClientConn
	service pb.ChangeFeedServiceClient
	life    context.Context // Until Close: every call and tail is joined with it.
	end     context.CancelFunc
}

// Option says how to reach the gateway.
type Option func(*settings)

type settings struct {
	tls    *tls.Config
	bearer func(context.Context) (string, error)
	more   []grpc.DialOption
}

// WithTLS encrypts; an empty configuration, or nil, trusts the system's roots. Certificates in it identify the client
// (mTLS).
func WithTLS(config *tls.Config) Option {
	if config == nil {
		config = &tls.Config{}
	}
	return func(s *settings) { s.tls = config }
}

// WithBearer sends a token with every call and every stream that is opened. It is asked each time, so that it may be
// renewed; it should answer from memory. It needs TLS. An error of it is an outage (Unavailable), which a tail waits
// out, unless it is a status of gRPC, which stays what it is; a text that can be no token, empty or with anything but
// visible ASCII, is an outage too, and is never shown.
func WithBearer(token func(context.Context) (string, error)) Option {
	return func(s *settings) { s.bearer = token }
}

// WithDialOptions adds options of gRPC's own.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(s *settings) { s.more = append(s.more, options...) }
}

// Dial makes a client of the gateway at host:port, in plaintext unless told otherwise. It connects with its first call.
func Dial(target string, options ...Option) (*Client, error) {
	chosen := settings{}
	for _, option := range options {
		option(&chosen)
	}
	if chosen.bearer != nil && chosen.tls == nil {
		return nil, errors.New("a bearer token is sent over TLS only: add WithTLS")
	}
	transport := insecure.NewCredentials()
	if chosen.tls != nil {
		transport = credentials.NewTLS(chosen.tls)
	}
	all := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultServiceConfig(serviceConfig),
		// Data of an idle stream are its heartbeats; a ping finds a dead peer while calls are open.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		// gRPC's own pause before it connects again grows to two minutes, longer than any restart.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnecting, MinConnectTimeout: 5 * time.Second}),
	}
	if chosen.bearer != nil {
		all = append(all, grpc.WithPerRPCCredentials(bearer(chosen.bearer)))
	}
	all = append(all, chosen.more...)
	client := &Client{dial: func() (*grpc.ClientConn, error) { return grpc.NewClient(target, all...) }}
	conn, err := client.dial()
	if err != nil {
		return nil, err
	}
	client.conn, client.service = conn, pb.NewChangeFeedServiceClient(conn)
	client.life, client.end = context.WithCancel(context.Background())
	return client, nil
}

// Close ends the client: its tails, readers of partitions and calls end with ErrClosed, those under way and later ones.
func (c *Client) Close() error {
	c.end() // Before the connection, so that whoever finds that closed finds out why.
	return c.conn.Close()
}

// ReadPage reads one page; the request's MaxWait lets the gateway wait for it. Save its token, also when it is empty.
func (c *Client) ReadPage(ctx context.Context, request *pb.ReadChangesRequest) (*pb.ReadChangesResponse, error) {
	return call(ctx, c, deadline+span(request.GetMaxWait()), c.service.ReadChanges, request)
}

// Partitions are the physical partitions that hold retained changes, parents before their children.
func (c *Client) Partitions(ctx context.Context, address *pb.ResourceAddress) iter.Seq2[*pb.PhysicalPartition, error] {
	return func(yield func(*pb.PhysicalPartition, error) bool) {
		request := &pb.ListPhysicalPartitionsRequest{Address: address}
		for {
			page, err := call(ctx, c, deadline, c.service.ListPhysicalPartitions, request)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, partition := range page.GetPartitions() {
				if !yield(partition, nil) {
					return
				}
			}
			if page.GetNextPageToken() == "" {
				return
			}
			request.PageToken = page.GetNextPageToken()
		}
	}
}

// Capabilities is what a collection can do.
func (c *Client) Capabilities(ctx context.Context, address *pb.ResourceAddress) (*pb.GetCapabilitiesResponse, error) {
	return call(ctx, c, deadline, c.service.GetCapabilities, &pb.GetCapabilitiesRequest{Address: address})
}

// Resolve is a start position as a token; without a scope, of the entire collection.
func (c *Client) Resolve(
	ctx context.Context, address *pb.ResourceAddress, start *pb.StartPosition, scope *pb.FeedScope,
) (*pb.ResolveStartPositionResponse, error) {
	request := &pb.ResolveStartPositionRequest{Address: address, StartPosition: start, Scope: scope}
	return call(ctx, c, deadline, c.service.ResolveStartPosition, request)
}

// Inspect says what a token is, and whether it can be used; one that cannot is an answer, not an error.
func (c *Client) Inspect(
	ctx context.Context, address *pb.ResourceAddress, continuationToken string,
) (*pb.InspectContinuationTokenResponse, error) {
	request := &pb.InspectContinuationTokenRequest{Address: address, ContinuationToken: continuationToken}
	return call(ctx, c, deadline, c.service.InspectContinuationToken, request)
}

// bearer is credentials.PerRPCCredentials.
type bearer func(context.Context) (string, error)

func (b bearer) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, err := b(ctx)
	if _, isStatus := status.FromError(err); !isStatus {
		// gRPC itself would call it UNAUTHENTICATED, which is final.
		return nil, status.Errorf(codes.Unavailable, "no bearer token was to be had: %v", err)
	}
	if err != nil {
		return nil, err
	}
	if token == "" || strings.ContainsFunc(token, isInvisible) {
		return nil, status.Error(codes.Unavailable, "that is no bearer token: it is empty, or holds more than visible ASCII")
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

func isInvisible(r rune) bool { return r < '!' || r > '~' }
