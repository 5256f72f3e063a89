-- As page, of a few buckets, through their own index.
SELECT {days}, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
UNION ALL
(SELECT {row}
FROM (
    (SELECT l.* FROM generate_series(%(low)s::int, %(high)s::int) AS b (bucket)
     CROSS JOIN LATERAL (
        SELECT * FROM {log} r
        WHERE (r.bucket, r.seq) > (b.bucket, %(after)s) AND (r.bucket, r.seq) <= (b.bucket, %(upper)s)
          AND r.xid >= %(base_xmax)s::xid8 AND pg_visible_in_snapshot(r.xid, %(to_snapshot)s::pg_snapshot)
          AND r.changed_at >= %(starts)s AND r.changed_at < %(ends)s
        ORDER BY r.bucket, r.seq LIMIT %(limit)s
     ) l)
    UNION ALL
    -- Marks: truncations, and an end of capture, concern every bucket.
    (SELECT l.* FROM {log} l
     WHERE (l.bucket, l.seq) > (-1, %(after)s) AND l.bucket <= -1 AND l.xid >= %(base_xmax)s::xid8
       AND pg_visible_in_snapshot(l.xid, %(to_snapshot)s::pg_snapshot)
       AND l.changed_at >= %(starts)s AND l.changed_at < %(ends)s
     ORDER BY l.bucket, l.seq LIMIT %(limit)s)
) l
ORDER BY l.seq LIMIT %(limit)s)
