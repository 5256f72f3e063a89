-- As page, of transactions that were under way and have ended. Pairs are compared where an equality would let the planner take
-- another index, which has the same order and not the same rows.
SELECT {days}, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
UNION ALL
(SELECT {row}
FROM unnest(%(finished)s::text[]::xid8[]) AS f (xid)
CROSS JOIN LATERAL (
    SELECT * FROM {log} r
    WHERE (r.xid, r.seq) > (f.xid, %(after_finished)s) AND r.xid <= f.xid
    ORDER BY r.xid, r.seq LIMIT %(limit)s
) l
ORDER BY l.seq LIMIT %(limit)s)
