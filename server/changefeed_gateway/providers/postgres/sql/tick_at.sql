-- The tick before the first one after a time: clocks step back, so a later one may claim an earlier time.
SELECT t.id, t.at, t.last_seq, t.xid::text, t.snapshot::text, t.topology FROM {ticks} t
WHERE t.id = coalesce(
    (SELECT min(a.id) - 1 FROM {ticks} a WHERE a.at > %(time)s),
    (SELECT max(n.id) FROM {ticks} n)
)
