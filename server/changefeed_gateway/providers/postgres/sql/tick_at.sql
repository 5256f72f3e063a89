-- The last tick at or before a time.
SELECT t.id, t.at, t.last_seq, t.xid::text, t.snapshot::text FROM {ticks} t
WHERE t.at <= %(time)s ORDER BY t.at DESC, t.id DESC LIMIT 1
