package changefeed

import pb "github.com/changefeed-gateway/changefeed/clients/go/gen/changefeed/v1"

// seen remembers the ids of the last changes: redelivered ones follow a reconnect, so a window is enough.
type seen struct {
	ring  []string
	next  int
	known map[string]struct{}
}

func newSeen(size int) *seen {
	return &seen{ring: make([]string, size), known: make(map[string]struct{}, size)}
}

// fresh is what was not delivered before, in the same order.
func (s *seen) fresh(events []*pb.ChangeEvent) []*pb.ChangeEvent {
	if len(s.ring) == 0 {
		return events
	}
	kept := make([]*pb.ChangeEvent, 0, len(events))
	for _, event := range events {
		id := event.GetEventId()
		if _, known := s.known[id]; known {
			continue
		}
		delete(s.known, s.ring[s.next])
		s.ring[s.next] = id
		s.known[id] = struct{}{}
		s.next = (s.next + 1) % len(s.ring)
		kept = append(kept, event)
	}
	return kept
}
