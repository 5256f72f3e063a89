"""The trigger-based change log of PostgreSQL."""
