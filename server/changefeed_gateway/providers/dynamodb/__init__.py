"""Change feeds of DynamoDB tables, from their streams."""
