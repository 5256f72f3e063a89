-- As page_finished, of a few buckets, through their own index. A transaction holds its id before it draws a number, and a tick
-- takes its own after it has read the sequence: no transaction holds a number up to the reading of a tick whose id is
-- lower than its own. So it begins there, not at the bucket's first row.
SELECT {days}, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
UNION ALL
(SELECT {row}
FROM (
    (SELECT l.* FROM generate_series(%(low)s::int, %(high)s::int) AS b (bucket)
     CROSS JOIN LATERAL (
        SELECT * FROM {log} r
        WHERE r.xid = ANY(%(finished)s::text[]::xid8[])
          AND (r.bucket, r.seq) > (b.bucket, greatest(%(after_finished)s, (
               SELECT t.last_seq FROM {ticks} t
               WHERE t.id <= %(base)s
                 AND t.xid < (SELECT f FROM unnest(%(finished)s::text[]::xid8[]) f ORDER BY f LIMIT 1)
               ORDER BY t.id DESC LIMIT 1)))
          AND (r.bucket, r.seq) <= (b.bucket, %(upper)s)
        ORDER BY r.bucket, r.seq LIMIT %(limit)s
     ) l)
    UNION ALL
    (SELECT l.* FROM {log} l
     WHERE (l.bucket, l.seq) > (-1, %(after_finished)s) AND l.bucket <= -1 AND l.xid = ANY(%(finished)s::text[]::xid8[])
     ORDER BY l.bucket, l.seq LIMIT %(limit)s)
) l
ORDER BY l.seq LIMIT %(limit)s)
