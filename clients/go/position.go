package changefeed

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/changefeed-gateway/changefeed/clients/go/gen/changefeed/v1"
)

// Beginning starts at the oldest retained change.
func Beginning() *pb.StartPosition {
	return &pb.StartPosition{Start: &pb.StartPosition_Beginning{Beginning: &pb.Beginning{}}}
}

// Now starts with what is committed after the gateway's first answer.
func Now() *pb.StartPosition {
	return &pb.StartPosition{Start: &pb.StartPosition_Now{Now: &pb.Now{}}}
}

// Snapshot starts with the items that exist, as events of CHANGE_TYPE_SNAPSHOT, and goes on with the changes.
// It is gated by CHANGE_FEED_SNAPSHOT.
func Snapshot() *pb.StartPosition {
	return &pb.StartPosition{Start: &pb.StartPosition_Snapshot{Snapshot: &pb.Snapshot{}}}
}

// AtTime starts with every change committed at or after a time, and possibly some from shortly before.
func AtTime(time time.Time) *pb.StartPosition {
	return &pb.StartPosition{Start: &pb.StartPosition_AtTime{AtTime: timestamppb.New(time)}}
}

// After starts after the position of a token from any earlier answer.
func After(continuationToken string) *pb.StartPosition {
	return &pb.StartPosition{Start: &pb.StartPosition_ContinuationToken{ContinuationToken: continuationToken}}
}

// Collection is the address of "connection/collection".
func Collection(path string) (*pb.ResourceAddress, error) {
	connection, name, _ := strings.Cut(path, "/")
	if connection == "" || name == "" {
		return nil, fmt.Errorf("not connection/collection: %q", path)
	}
	return &pb.ResourceAddress{Connection: connection, Collection: name}, nil
}

// PhysicalPartition is the scope of one physical partition.
func PhysicalPartition(id string) *pb.FeedScope {
	return &pb.FeedScope{Scope: &pb.FeedScope_PhysicalPartitionId{PhysicalPartitionId: id}}
}

// LogicalPartition is the scope of one logical partition, named by the text of ChangeEvent.Key.PartitionKey.
func LogicalPartition(partitionKey string) *pb.FeedScope {
	return &pb.FeedScope{Scope: &pb.FeedScope_LogicalPartition{LogicalPartition: partitionKey}}
}
