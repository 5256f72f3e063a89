// Mirror keeps a local copy of a collection, the items that are there and then every change:
// go run ./examples/mirror main/documents mirror.json
//
// Stop it with Ctrl-C or a kill and start it again: the copy and the token are saved in one step, so it ends equal to
// the source whatever happened in between. CHANGEFEED_TARGET names another gateway than 127.0.0.1:50051.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/signal"
	"strings"
	"time"

	changefeed "github.com/changefeed-gateway/changefeed/clients/go"
	pb "github.com/changefeed-gateway/changefeed/clients/go/gen/changefeed/v1"
)

// mirror is the local table. In a database the rows and the token are two tables, written in one transaction.
type mirror struct {
	Token string                     `json:"token"`
	Items map[string]json.RawMessage `json:"items"`
}

// apply is idempotent, as delivery is at least once.
func (m *mirror) apply(event *pb.ChangeEvent) {
	var parts []string
	for _, component := range event.GetKey().GetComponents() {
		parts = append(parts, component.GetValue())
	}
	key, _ := json.Marshal(parts)
	switch {
	case event.GetChangeType() == pb.ChangeType_CHANGE_TYPE_TRUNCATE:
		clear(m.Items)
	case event.GetChangeType() == pb.ChangeType_CHANGE_TYPE_DELETE:
		delete(m.Items, string(key))
	case event.GetNewItemJson() != "":
		m.Items[string(key)] = json.RawMessage(event.GetNewItemJson()) // The text itself: every digit stays.
	case event.GetItemState() == pb.ItemState_ITEM_STATE_NOT_APPLICABLE:
		delete(m.Items, string(key)) // It was deleted before the page was read.
	default:
		log.Fatalf("%v came without its item: %v", parts, event.GetItemState())
	}
}

func (m *mirror) commit(path, token string) error {
	m.Token = token
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	draft := path + ".new"
	if err := os.WriteFile(draft, text, 0o600); err != nil {
		return err
	}
	return os.Rename(draft, path)
}

func load(path string) (*mirror, error) {
	m := &mirror{}
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, m)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if m.Items == nil {
		m.Items = map[string]json.RawMessage{}
	}
	return m, err
}

// firstPosition is a snapshot, where the collection has them; otherwise all changes that are retained.
func firstPosition(ctx context.Context, client *changefeed.Client, address *pb.ResourceAddress) (*pb.StartPosition, error) {
	answer, err := client.Capabilities(ctx, address)
	for _, capability := range answer.GetCapabilities() {
		if capability.GetName() == "CHANGE_FEED_SNAPSHOT" && capability.GetSupported() {
			return changefeed.Snapshot(), nil
		}
	}
	return changefeed.Beginning(), err
}

func run(ctx context.Context, collection, path string) error {
	m, err := load(path)
	if err != nil {
		return fmt.Errorf("%s holds no mirror: %w", path, err)
	}
	address, err := changefeed.Collection(collection)
	if err != nil {
		return err
	}
	target := os.Getenv("CHANGEFEED_TARGET")
	if target == "" {
		target = "127.0.0.1:50051"
	}
	client, err := changefeed.Dial(target)
	if err != nil {
		return err
	}
	defer client.Close()
	start := changefeed.After(m.Token)
	if m.Token == "" {
		if start, err = firstPosition(ctx, client, address); err != nil {
			return err
		}
	}
	for delivery, err := range client.Tail(ctx, address, start, changefeed.WithReconnects(tell)) {
		if err != nil {
			return err
		}
		for _, event := range delivery.Events {
			m.apply(event)
		}
		if err := m.commit(path, delivery.ContinuationToken); err != nil {
			return err
		}
	}
	return nil
}

// tell says on standard error why nothing comes.
func tell(err error, pause time.Duration) {
	log.Printf("interrupted, again in %v: %v", pause.Round(time.Millisecond), err)
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: mirror CONNECTION/COLLECTION FILE")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1], os.Args[2])
	switch {
	case errors.Is(err, context.Cause(ctx)): // Ctrl-C, wherever it came.
	case errors.Is(err, changefeed.CheckpointExpired):
		log.Fatal(strings.TrimSpace(err.Error()), "\nchanges are lost to this mirror: remove its file to copy anew")
	case err != nil:
		log.Fatal(err)
	}
}
