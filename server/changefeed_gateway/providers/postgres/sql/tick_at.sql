-- The tick before the first one after a time: clocks step back, so a later one may claim an earlier time. In the order of
-- reached, which is that of ids; its bound follows from the one of at, and begins where the index has the time.
SELECT t.id, t.at, t.last_seq, t.xid::text, t.snapshot::text, t.topology, t.day FROM {ticks} t
WHERE t.id = coalesce(
    (SELECT a.id - 1 FROM {ticks} a WHERE a.at > %(time)s AND a.reached > %(time)s ORDER BY a.reached, a.id LIMIT 1),
    (SELECT max(n.id) FROM {ticks} n)
)
