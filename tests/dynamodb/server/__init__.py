"""DynamoDB and its streams over HTTP, for tests: an unmodified SDK talks to it, and a test makes it do what AWS may."""
