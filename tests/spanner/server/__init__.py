"""Cloud Spanner over gRPC, for tests: an unmodified SDK talks to it, and a test makes it do what Google may."""
