"""A PostgreSQL server of our own, for a first look and for tests."""
