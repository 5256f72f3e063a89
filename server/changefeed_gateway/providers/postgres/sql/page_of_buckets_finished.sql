-- As page_finished, of a range of buckets.
SELECT {days}, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
UNION ALL
(SELECT {row}
FROM unnest(%(finished)s::text[]::xid8[]) AS f (xid)
CROSS JOIN LATERAL (
    SELECT * FROM {log} r
    WHERE (r.xid, r.seq) > (f.xid, %(after_finished)s) AND r.xid <= f.xid
      AND (r.bucket BETWEEN %(low)s AND %(high)s OR r.bucket = -1)
    ORDER BY r.xid, r.seq LIMIT %(limit)s
) l
ORDER BY l.seq LIMIT %(limit)s)
