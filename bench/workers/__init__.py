"""What runs in processes of its own: clients, writers and raw readers. `python -m bench.workers NAME JOB`."""
