"""Azure Cosmos DB over HTTP, for tests: an unmodified SDK talks to it, and a test makes it do what Azure may."""
