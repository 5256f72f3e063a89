-- As page, of one partition key, through the index of its bucket, passing over the rows of the bucket's other keys.
SELECT {days}, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
UNION ALL
(SELECT {row}
FROM (
    (SELECT l.* FROM {log} l
     WHERE (l.bucket, l.seq) > (changefeed.bucket(%(partition_key)s::text), %(after)s)
       AND (l.bucket, l.seq) <= (changefeed.bucket(%(partition_key)s::text), %(upper)s)
       AND l.partition_key = %(partition_key)s::text
       AND l.xid >= %(base_xmax)s::xid8 AND pg_visible_in_snapshot(l.xid, %(to_snapshot)s::pg_snapshot)
       AND l.changed_at >= %(starts)s AND l.changed_at < %(ends)s
     ORDER BY l.bucket, l.seq LIMIT %(limit)s)
    UNION ALL
    -- Marks: truncations, and an end of capture, concern every key.
    (SELECT l.* FROM {log} l
     WHERE (l.bucket, l.seq) > (-1, %(after)s) AND l.bucket <= -1 AND l.xid >= %(base_xmax)s::xid8
       AND pg_visible_in_snapshot(l.xid, %(to_snapshot)s::pg_snapshot)
       AND l.changed_at >= %(starts)s AND l.changed_at < %(ends)s
     ORDER BY l.bucket, l.seq LIMIT %(limit)s)
) l
ORDER BY l.seq LIMIT %(limit)s)
