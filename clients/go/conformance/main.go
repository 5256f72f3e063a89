// Conformance is the Go client's program for the conformance run: see docs/clients.md in the repository.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log"
	"os"
	"sync"
	"time"

	changefeed "github.com/changefeed-gateway/changefeed/clients/go"
	pb "github.com/changefeed-gateway/changefeed/clients/go/gen/changefeed/v1"
)

// order is what an argument holds; they are carried out one after the other.
type order struct {
	Target      string   `json:"target"`
	Collection  string   `json:"collection"`
	Call        string   `json:"call"`
	Start       string   `json:"start"`
	After       string   `json:"after"`
	Checkpoint  string   `json:"checkpoint"`
	Only        []string `json:"only"`
	HandleMS    int      `json:"handle_ms"`
	HeartbeatMS int      `json:"heartbeat_ms"`
	PatienceMS  *int     `json:"patience_ms"`
	MaxEvents   int64    `json:"max_events"`
	MaxBatch    int32    `json:"max_batch_size"`
	Deduplicate int      `json:"deduplicate"`
	Roots       string   `json:"roots"`
	Bearer      string   `json:"bearer"`
}

type event struct {
	ID           string   `json:"id"`
	Type         int32    `json:"type"`
	State        int32    `json:"state"`
	PartitionKey string   `json:"partition_key"`
	Key          []string `json:"key"`
	Item         *string  `json:"item"` // Parsed and written again: it must still have every digit.
}

type delivery struct {
	Token     string    `json:"token"`
	Live      bool      `json:"live"`
	Partition string    `json:"partition"`
	Children  []string  `json:"children"`
	Snapshot  *progress `json:"snapshot"`
	Warnings  []string  `json:"warnings"`
	Events    []event   `json:"events"`
}

type progress struct {
	Items    int64 `json:"items"`
	Finished bool  `json:"finished"`
}

type failure struct {
	Category  string `json:"category"`
	Reason    string `json:"reason"`
	Retryable bool   `json:"retryable"`
	Provider  string `json:"provider"`
	RequestID string `json:"request_id"`
}

var mutex sync.Mutex

func ptr(text string) *string { return &text }

func say(what string, content any) {
	line, err := json.Marshal(map[string]any{what: content})
	if err != nil {
		log.Fatal(err)
	}
	mutex.Lock()
	defer mutex.Unlock()
	os.Stdout.Write(append(line, '\n'))
}

func (o *order) handle(_ context.Context, partition string, d changefeed.Delivery) error {
	said := delivery{
		Token: d.ContinuationToken, Live: d.Live, Partition: partition,
		Children: []string{}, Warnings: []string{}, Events: []event{},
	}
	for _, child := range d.Children {
		said.Children = append(said.Children, child.GetPartitionId())
	}
	for _, warning := range d.Warnings {
		said.Warnings = append(said.Warnings, warning.GetCode())
	}
	if d.Snapshot != nil {
		said.Snapshot = &progress{Items: d.Snapshot.GetItems(), Finished: d.Snapshot.GetFinished()}
	}
	for _, e := range d.Events {
		one := event{
			ID: e.GetEventId(), Type: int32(e.GetChangeType()), State: int32(e.GetItemState()),
			PartitionKey: e.GetKey().GetPartitionKey(), Key: []string{},
		}
		for _, component := range e.GetKey().GetComponents() {
			one.Key = append(one.Key, component.GetValue())
		}
		if e.GetNewItemJson() != "" {
			var parsed any
			if err := changefeed.DecodeItem(e.GetNewItemJson(), &parsed); err != nil {
				return err
			}
			text, err := json.Marshal(parsed)
			if err != nil {
				return err
			}
			one.Item = ptr(string(text))
		}
		said.Events = append(said.Events, one)
	}
	say("delivery", said)
	if len(d.Events) > 0 {
		time.Sleep(time.Duration(o.HandleMS) * time.Millisecond)
	}
	return nil
}

func (o *order) options() []changefeed.TailOption {
	options := []changefeed.TailOption{
		changefeed.WithReconnects(func(err error, pause time.Duration) {
			say("reconnect", map[string]any{"message": err.Error(), "pause_ms": pause.Milliseconds()})
		}),
		changefeed.WithDeduplication(o.Deduplicate),
	}
	if o.HeartbeatMS > 0 {
		options = append(options, changefeed.WithHeartbeats(time.Duration(o.HeartbeatMS)*time.Millisecond))
	}
	if o.PatienceMS != nil {
		options = append(options, changefeed.WithPatience(time.Duration(*o.PatienceMS)*time.Millisecond))
	}
	if o.MaxBatch > 0 {
		options = append(options, changefeed.WithBatches(o.MaxBatch))
	}
	if o.MaxEvents > 0 {
		options = append(options, changefeed.WithMaxEvents(o.MaxEvents))
	}
	return options
}

func (o *order) run(ctx context.Context) error {
	var dialling []changefeed.Option
	if o.Roots != "" {
		pem, err := os.ReadFile(o.Roots)
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		dialling = append(dialling, changefeed.WithTLS(&tls.Config{RootCAs: roots}))
	}
	if o.Bearer != "" {
		token := func(context.Context) (string, error) { return o.Bearer, nil }
		dialling = append(dialling, changefeed.WithBearer(token))
	}
	client, err := changefeed.Dial(o.Target, dialling...)
	if err != nil {
		return err
	}
	defer client.Close()
	address, err := changefeed.Collection(o.Collection)
	if err != nil {
		return err
	}
	start := map[string]*pb.StartPosition{
		"beginning": changefeed.Beginning(), "now": changefeed.Now(), "snapshot": changefeed.Snapshot(),
		"after": changefeed.After(o.After),
	}[o.Start]
	switch o.Call {
	case "tail":
		options := o.options()
		if o.Checkpoint != "" {
			options = append(options, changefeed.WithCheckpoint(&changefeed.FileCheckpoint{Path: o.Checkpoint}))
		}
		for d, err := range client.Tail(ctx, address, start, options...) {
			if err == nil {
				err = o.handle(ctx, "", d)
			}
			if err != nil {
				return err
			}
		}
		return nil
	case "drain":
		count, began := 0, time.Now()
		for d, err := range client.Tail(ctx, address, start, changefeed.WithMaxEvents(o.MaxEvents)) {
			if err != nil {
				return err
			}
			count += len(d.Events)
		}
		say("drained", map[string]any{"events": count, "seconds": time.Since(began).Seconds()})
		return nil
	case "partitions":
		var checkpoint changefeed.Checkpoint = &changefeed.MemoryCheckpoint{}
		if o.Checkpoint != "" {
			checkpoint = &changefeed.FileCheckpoint{Path: o.Checkpoint}
		}
		return client.ReadPartitions(ctx, address, start, checkpoint, o.handle, append(o.options(), changefeed.WithPartitions(o.Only...))...)
	case "page":
		page, err := client.ReadPage(ctx, &pb.ReadChangesRequest{Address: address, StartPosition: start})
		if err != nil {
			return err
		}
		return o.handle(ctx, "", changefeed.Delivery{
			ContinuationToken: page.GetContinuationToken(), Events: page.GetEvents(), Snapshot: page.GetSnapshot(),
			Warnings: page.GetWarnings(),
		})
	}
	return errors.New("no such call: " + o.Call)
}

func main() {
	for _, argument := range os.Args[1:] {
		var o order
		if err := json.Unmarshal([]byte(argument), &o); err != nil {
			log.Fatal(err)
		}
		o.finish()
	}
}

func (o *order) finish() {
	err := o.run(context.Background())
	var failed *changefeed.Error
	var interrupted *changefeed.Interrupted
	switch {
	case err == nil:
		say("end", true)
	case errors.As(err, &failed):
		say("error", failure{
			Category: string(failed.Category), Reason: failed.Reason, Retryable: failed.Retryable,
			Provider: failed.Provider, RequestID: failed.RequestID,
		})
	case errors.As(err, &interrupted):
		say("error", failure{Category: "INTERRUPTED", Reason: interrupted.Message, Retryable: true})
	default:
		log.Fatal(err)
	}
}
