-- The batch of each of some transactions: the first tick after `base` that sees it. `seqs` are the highest numbers
-- that each is known to hold: a tick before the first one whose reading reaches them cannot see it. No row without `base`:
-- the ticks after it may have been dropped with it.
SELECT c.xid::text, s.id, s.at
FROM (SELECT t.id FROM {ticks} t WHERE t.id BETWEEN %(base)s AND %(base)s ORDER BY t.id) b
CROSS JOIN unnest(%(xids)s::text[]::xid8[], %(seqs)s::bigint[]) AS c (xid, seq)
CROSS JOIN LATERAL (
    SELECT t.id, t.at FROM {ticks} t
    WHERE t.id > greatest(b.id, (SELECT f.id - 2 FROM {ticks} f WHERE f.last_seq >= c.seq ORDER BY f.last_seq, f.id LIMIT 1))
      AND pg_visible_in_snapshot(c.xid, t.snapshot)
    ORDER BY t.id LIMIT 1) s
