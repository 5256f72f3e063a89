"""Who calls, and whether the door opens: credentials become a principal, a request what it asks of the policy."""
