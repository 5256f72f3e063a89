"""Side-by-side measurements: the gateway, and beside it what PostgreSQL and Python can do at most."""
