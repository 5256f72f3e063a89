SELECT t.id, t.at, t.last_seq, t.xid::text, t.snapshot::text, t.topology FROM {ticks} t
WHERE t.id BETWEEN %(low)s AND %(high)s
