-- As page, of one partition key, through the index of its bucket, passing over the rows of the bucket's other keys. A
-- transaction holds its id before it draws a number, and a tick takes its own after it has read the sequence: no
-- transaction holds a number up to the reading of a tick whose id is lower than its own. So the second arm begins there,
-- not at the bucket's first row.
SELECT {days}, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
UNION ALL
(SELECT {row}
FROM (
    (SELECT l.* FROM {log} l
     WHERE (l.bucket, l.seq) > (changefeed.bucket(%(partition_key)s::text), %(after)s)
       AND (l.bucket, l.seq) <= (changefeed.bucket(%(partition_key)s::text), %(upper)s)
       AND l.partition_key = %(partition_key)s::text
       AND l.xid >= %(base_xmax)s::xid8 AND pg_visible_in_snapshot(l.xid, %(to_snapshot)s::pg_snapshot)
       AND l.op NOT IN ('truncate', 'stopped')
     ORDER BY l.bucket, l.seq LIMIT %(limit)s)
    UNION ALL
    (SELECT l.* FROM {log} l
     WHERE cardinality(%(finished)s::text[]) > 0 AND l.xid = ANY(%(finished)s::text[]::xid8[])
       AND (l.bucket, l.seq) > (changefeed.bucket(%(partition_key)s::text), greatest(%(after_finished)s, (
            SELECT t.last_seq FROM {ticks} t
            WHERE t.id <= %(base)s AND t.xid < (SELECT f FROM unnest(%(finished)s::text[]::xid8[]) f ORDER BY f LIMIT 1)
            ORDER BY t.id DESC LIMIT 1)))
       AND (l.bucket, l.seq) <= (changefeed.bucket(%(partition_key)s::text), %(upper)s)
       AND l.partition_key = %(partition_key)s::text AND l.op NOT IN ('truncate', 'stopped')
     ORDER BY l.bucket, l.seq LIMIT %(limit)s)
    UNION ALL
    -- Truncations, and an end of capture, concern every key.
    (SELECT l.* FROM {log} l
     WHERE l.op IN ('truncate', 'stopped') AND l.seq > %(after_finished)s
       AND (l.seq > %(after)s AND l.xid >= %(base_xmax)s::xid8
                AND pg_visible_in_snapshot(l.xid, %(to_snapshot)s::pg_snapshot)
            OR l.xid = ANY(%(finished)s::text[]::xid8[]))
     ORDER BY l.seq LIMIT %(limit)s)
) l
ORDER BY l.seq LIMIT %(limit)s)
