-- As page, of a range of buckets, passing over the rows of the others. Truncations, and an end of capture, concern every bucket.
SELECT {days}, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
UNION ALL
(SELECT {row}
FROM (
    (SELECT l.* FROM {log} l
     WHERE l.seq > %(after)s AND l.seq <= %(upper)s AND l.xid >= %(base_xmax)s::xid8
       AND pg_visible_in_snapshot(l.xid, %(to_snapshot)s::pg_snapshot)
       AND (l.bucket BETWEEN %(low)s AND %(high)s OR l.op IN ('truncate', 'stopped'))
     ORDER BY l.seq LIMIT %(limit)s)
    UNION ALL
    (SELECT l.* FROM unnest(%(finished)s::text[]::xid8[]) AS f (xid)
     CROSS JOIN LATERAL (
        SELECT * FROM {log} r
        WHERE (r.xid, r.seq) > (f.xid, %(after_finished)s) AND r.xid <= f.xid
          AND (r.bucket BETWEEN %(low)s AND %(high)s OR r.op IN ('truncate', 'stopped'))
        ORDER BY r.xid, r.seq LIMIT %(limit)s
     ) l)
) l
ORDER BY l.seq LIMIT %(limit)s)
