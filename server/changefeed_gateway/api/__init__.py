"""The gRPC face: knows protobuf and grpc, decides nothing."""
