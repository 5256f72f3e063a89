-- Rows of the batches after a base tick, up to and including those of another: what that one sees and the base does
-- not. Two arms: transactions that the base's snapshot knew nothing of, and those that it saw under way and that have
-- ended since. Pairs are compared where an equality would let the planner take another index, which has the same order
-- and not the same rows. The first row of the answer holds the number of the tables that it was read from, see history.
SELECT {days}, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
UNION ALL
(SELECT {row}
FROM (
    (SELECT l.* FROM {log} l
     WHERE l.seq > %(after)s AND l.seq <= %(upper)s AND l.xid >= %(base_xmax)s::xid8
       AND pg_visible_in_snapshot(l.xid, %(to_snapshot)s::pg_snapshot)
     ORDER BY l.seq LIMIT %(limit)s)
    UNION ALL
    (SELECT l.* FROM unnest(%(finished)s::text[]::xid8[]) AS f (xid)
     CROSS JOIN LATERAL (
        SELECT * FROM {log} r
        WHERE (r.xid, r.seq) > (f.xid, %(after_finished)s) AND r.xid <= f.xid
        ORDER BY r.xid, r.seq LIMIT %(limit)s
     ) l)
) l
ORDER BY l.seq LIMIT %(limit)s)
