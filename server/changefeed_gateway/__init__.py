"""One gRPC contract over the change feeds of several databases."""
