SELECT t.id, t.at, t.last_seq, t.xid::text, t.snapshot::text FROM {ticks} t ORDER BY t.id DESC LIMIT 1
