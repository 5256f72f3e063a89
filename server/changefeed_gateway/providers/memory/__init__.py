"""A feed in memory with splits, merges, trimming and injected faults; obeys the whole conformance suite."""
