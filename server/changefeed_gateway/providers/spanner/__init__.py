"""Change feeds of Cloud Spanner tables, from their change streams."""
