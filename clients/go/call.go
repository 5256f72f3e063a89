package changefeed

import (
	"context"
	"time"

	"google.golang.org/grpc"
)

// call carries out a unary call. It ends with its caller's context, with the client, and after the longest time unless
// its caller gave a deadline.
func call[Request, Answer any](
	ctx context.Context, c *Client, longest time.Duration,
	method func(context.Context, Request, ...grpc.CallOption) (Answer, error), request Request,
) (Answer, error) {
	joined, leave := c.joined(ctx)
	defer leave(nil)
	limited, cancel := bounded(joined, longest)
	defer cancel()
	answer, err := method(limited, request)
	if err == nil {
		return answer, nil
	}
	if ended := c.ended(ctx); ended != nil {
		return answer, ended
	}
	return answer, FromError(err)
}

// bounded gives a call a deadline unless its caller gave one.
func bounded(ctx context.Context, longest time.Duration) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, longest)
}

// joined is a context that the client's end ends too. The function gives back what it holds; the first cause stays.
func (c *Client) joined(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.life, func() { cancel(ErrClosed) })
	return ctx, func(cause error) {
		stop()
		cancel(cause)
	}
}

// ended is why a failure says nothing of the gateway: its caller ended it, or the client was closed. It is nil otherwise.
// It asks for the client's end itself, since a joined context may learn of it later than a call does.
func (c *Client) ended(ctx context.Context) error {
	if at, has := ctx.Deadline(); has && !time.Now().Before(at) {
		<-ctx.Done() // gRPC and the gateway look at clocks of their own, and may be ahead of the context.
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if c.life.Err() != nil {
		return ErrClosed
	}
	return nil
}
