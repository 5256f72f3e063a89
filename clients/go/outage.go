package changefeed

import (
	"context"
	"math"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	firstPause   = 100 * time.Millisecond
	longestPause = 15 * time.Second
	// Nobody who asks for a day can mean it of a stream.
	longestAsked = 10 * time.Minute
	// Part that is added at random to a pause the gateway asks for, so that clients do not return all at once.
	jitter = 0.2
)

// outage begins with the first failure: the time that a healthy stream had nothing to say before it is no part of it.
type outage struct {
	patience time.Duration // Negative: without end.
	began    time.Time
	attempts int
}

// wait pauses before the next try, or returns the error when it is final or there will be no other try.
func (o *outage) wait(ctx context.Context, err error, announce func(error, time.Duration)) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !isRetryable(err) {
		return err
	}
	if o.attempts == 0 {
		o.began = time.Now()
	}
	o.attempts++
	least := min(max(asked(err), 0), longestAsked)
	left := time.Duration(math.MaxInt64)
	if o.patience >= 0 {
		left = o.patience - time.Since(o.began)
		if left <= 0 || least > left {
			return err
		}
	}
	pause := o.pause(least, left)
	announce(err, pause)
	select {
	case <-time.After(pause):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pause grows from try to try and is never shorter than the gateway asks for; patience bounds it, so that the last try
// is at its end.
func (o *outage) pause(least, left time.Duration) time.Duration {
	ceiling := longestPause
	if doublings := o.attempts - 1; doublings < 8 {
		ceiling = min(ceiling, firstPause<<doublings)
	}
	random := time.Duration(rand.Float64() * float64(ceiling))
	jittered := time.Duration(float64(least) * (1 + rand.Float64()*jitter))
	return min(max(random, jittered), max(least, left))
}

// over ends the outage: what came is progress.
func (o *outage) over() { o.attempts = 0 }

// span is a length of time as it can be waited for: a negative one is none, one beyond any calendar is its end.
func span(duration *durationpb.Duration) time.Duration {
	return max(duration.AsDuration(), 0)
}
