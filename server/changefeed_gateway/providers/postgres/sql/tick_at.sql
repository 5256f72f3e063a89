-- The tick before the first one after a time: clocks step back, so a later one may claim an earlier time.
SELECT t.id, t.at, t.last_seq, t.xid::text, t.snapshot::text, t.topology FROM {ticks} t
WHERE t.id = (SELECT min(a.id) - 1 FROM {ticks} a WHERE a.at > %(time)s)
   OR t.id = (SELECT max(n.id) FROM {ticks} n) AND NOT EXISTS (SELECT FROM {ticks} a WHERE a.at > %(time)s)
