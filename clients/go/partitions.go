package changefeed

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	pb "github.com/changefeed-gateway/changefeed/clients/go/gen/changefeed/v1"
)

// WithPartitions makes ReadPartitions begin with these physical partitions in place of all. Other processes may read the
// others, each with a checkpoint of its own; a child whose parents two of them read waits for its own reader's only. One
// that the collection does not have is NotFound.
func WithPartitions(ids ...string) TailOption { return func(s *tailSettings) { s.only = ids } }

// ReadPartitions follows the physical partitions of a collection in parallel, a tail each, and goes on with the children
// of those that retire: a child once all its parents are read to their end, so that every key keeps its order. handle is
// called for one delivery of a partition after the other, and for those of several partitions at the same time; a
// delivery's token is saved when it returned. The checkpoint's positions go before start. An outage is waited for as a tail
// does, within patience, also where partitions are listed and positions fixed. It returns what handle, the checkpoint, a
// call or a tail returned first, the context's cause or ErrClosed, after all others have ended; nil when every partition is
// retired without children.
func (c *Client) ReadPartitions(
	ctx context.Context, address *pb.ResourceAddress, start *pb.StartPosition, checkpoint Checkpoint,
	handle func(ctx context.Context, partitionID string, delivery Delivery) error, options ...TailOption,
) error {
	settings := chosen(address, options)
	if settings.request.GetMaxEvents() != 0 || settings.request.GetScope() != nil || settings.checkpoint != nil {
		return errors.New("ReadPartitions takes no scope, no number of events and no second checkpoint")
	}
	ctx, end := c.joined(ctx)
	defer end(nil)
	r := &partitionReader{
		client: c, address: address, checkpoint: checkpoint, handle: handle, options: options, settings: settings,
		parents: map[string][]string{}, running: map[string]bool{}, ended: make(chan partitionEnd), fail: end,
	}
	err := r.begin(ctx, start)
	if err == nil {
		err = r.run(ctx)
	}
	if err == nil {
		return nil
	}
	end(err)
	return context.Cause(ctx) // What came first: others fail because of it.
}

type partitionReader struct {
	client     *Client
	address    *pb.ResourceAddress
	checkpoint Checkpoint
	handle     func(context.Context, string, Delivery) error
	options    []TailOption
	settings   *tailSettings
	positions  Positions // Of partitions that are not read to their end; what is in none is finished or to come.
	parents    map[string][]string
	running    map[string]bool
	ended      chan partitionEnd
	fail       context.CancelCauseFunc
}

type partitionEnd struct {
	id       string
	children []*pb.ChildPartition
	err      error
}

// begin finds the positions: those saved, or those of the start in every partition, fixed before anything is read.
func (r *partitionReader) begin(ctx context.Context, start *pb.StartPosition) error {
	var err error
	if r.positions, err = r.checkpoint.Load(ctx); err != nil {
		return err
	}
	r.positions = maps.Clone(r.positions)
	if err := r.learnParents(ctx); err != nil || len(r.positions) > 0 {
		return err
	}
	r.positions = Positions{}
	only := r.settings.only
	if len(only) == 0 {
		only = slices.Collect(maps.Keys(r.parents))
	}
	// One that nobody has is the gateway's to refuse; passed over, it would look like one that is finished.
	for _, id := range only {
		place, err := patiently(ctx, r, func(ctx context.Context) (*pb.ResolveStartPositionResponse, error) {
			return r.client.Resolve(ctx, r.address, start, PhysicalPartition(id))
		})
		if err != nil {
			return err
		}
		r.positions[id] = place.GetContinuationToken()
	}
	return r.checkpoint.Save(ctx, r.positions)
}

func (r *partitionReader) learnParents(ctx context.Context) error {
	listed, err := patiently(ctx, r, r.list)
	if err != nil {
		return err
	}
	for _, partition := range listed {
		if _, known := r.parents[partition.GetPartitionId()]; !known {
			r.parents[partition.GetPartitionId()] = partition.GetParentPartitionIds()
		}
	}
	return nil
}

func (r *partitionReader) list(ctx context.Context) ([]*pb.PhysicalPartition, error) {
	var listed []*pb.PhysicalPartition
	for partition, err := range r.client.Partitions(ctx, r.address) {
		if err != nil {
			return nil, err
		}
		listed = append(listed, partition)
	}
	return listed, nil
}

// patiently repeats what a reader asks for until it is answered, fails for good, or its outage outlasts patience.
func patiently[Answer any](
	ctx context.Context, r *partitionReader, ask func(context.Context) (Answer, error),
) (Answer, error) {
	o := outage{patience: r.settings.patience}
	for {
		answer, err := ask(unlimited{ctx})
		if err == nil {
			return answer, nil
		}
		if ended := r.client.ended(ctx); ended != nil {
			return answer, ended
		}
		if err := o.wait(ctx, err, r.settings.announce); err != nil {
			return answer, err
		}
	}
}

// unlimited hides a deadline, which is that of the whole reading: each of its calls has one of its own.
type unlimited struct{ context.Context }

// Deadline implements context.Context.
func (unlimited) Deadline() (time.Time, bool) { return time.Time{}, false }

func (r *partitionReader) run(ctx context.Context) (err error) {
	defer func() {
		r.fail(err)
		for range r.running {
			<-r.ended
		}
	}()
	for {
		r.startReady(ctx)
		if len(r.running) == 0 {
			if len(r.positions) > 0 {
				return errors.New("the partitions wait for each other")
			}
			return nil
		}
		end := <-r.ended
		delete(r.running, end.id)
		if end.err != nil {
			return end.err
		}
		if err := r.retire(ctx, end); err != nil {
			return err
		}
	}
}

func (r *partitionReader) startReady(ctx context.Context) {
	for id, token := range r.positions {
		if r.running[id] || r.isWaiting(id) {
			continue
		}
		r.running[id] = true
		go func() {
			end := r.read(ctx, id, token)
			if end.err != nil {
				r.fail(end.err) // At once: whoever takes the ends may be waiting for the gateway.
			}
			r.ended <- end
		}()
	}
}

// isWaiting says whether any ancestor is still read: a parent may be one that its own parents have yet to name.
func (r *partitionReader) isWaiting(id string) bool {
	seen, parents := map[string]bool{}, slices.Clone(r.parents[id])
	for len(parents) > 0 {
		parent := parents[len(parents)-1]
		parents = parents[:len(parents)-1]
		if r.positions[parent] != "" {
			return true
		}
		if !seen[parent] {
			seen[parent] = true
			parents = append(parents, r.parents[parent]...)
		}
	}
	return false
}

// read follows one partition to its end.
func (r *partitionReader) read(ctx context.Context, id, token string) partitionEnd {
	end := partitionEnd{id: id}
	options := append(slices.Clone(r.options), WithScope(PhysicalPartition(id)))
	for delivery, err := range r.client.Tail(ctx, r.address, After(token), options...) {
		if err == nil {
			err = r.handle(ctx, id, delivery)
		}
		if err == nil {
			err = r.checkpoint.Save(ctx, Positions{id: delivery.ContinuationToken})
		}
		if err != nil {
			end.err = err
			return end
		}
		end.children = append(end.children, delivery.Children...)
	}
	return end
}

// retire puts the children in the place of a partition, in one step, so that a crash leaves the one or the others.
func (r *partitionReader) retire(ctx context.Context, end partitionEnd) error {
	changes := Positions{end.id: ""}
	isUnknown := func(parent string) bool { _, known := r.parents[parent]; return !known }
	learn := false
	for _, child := range end.children {
		id := child.GetPartitionId()
		r.parents[id] = child.GetParentPartitionIds()
		if r.positions[id] == "" { // Another parent, or the first listing, may have named it already.
			changes[id] = child.GetContinuationToken()
		}
		learn = learn || slices.ContainsFunc(child.GetParentPartitionIds(), isUnknown)
	}
	if learn {
		if err := r.learnParents(ctx); err != nil {
			return err
		}
	}
	r.positions = changed(r.positions, changes)
	return r.checkpoint.Save(ctx, changes)
}
