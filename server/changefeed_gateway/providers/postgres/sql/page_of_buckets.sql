-- As page, of a range of buckets, passing over the rows of the others. Truncations, and an end of capture, concern every bucket.
SELECT p.seq, p.xid, p.changed_at, p.op, p.created, p.partition_key, p.key,
       CASE WHEN p.image_bytes <= 8192 THEN p.image END, p.image_bytes, p.bucket, p.annotations
FROM (
    (SELECT l.seq, l.xid::text AS xid, l.changed_at, l.op, l.created, l.partition_key, l.key, l.image,
            octet_length(l.image) AS image_bytes, l.bucket, l.annotations
     FROM {log} l
     WHERE l.seq > %(after)s AND l.seq <= %(upper)s AND l.xid >= %(base_xmax)s::xid8
       AND pg_visible_in_snapshot(l.xid, %(to_snapshot)s::pg_snapshot)
       AND (l.bucket BETWEEN %(low)s AND %(high)s OR l.op IN ('truncate', 'stopped'))
     ORDER BY l.seq LIMIT %(limit)s)
    UNION ALL
    (SELECT l.seq, l.xid::text AS xid, l.changed_at, l.op, l.created, l.partition_key, l.key, l.image,
            octet_length(l.image) AS image_bytes, l.bucket, l.annotations
     FROM unnest(%(finished)s::text[]::xid8[]) AS f (xid)
     CROSS JOIN LATERAL (
        SELECT * FROM {log} r
        WHERE (r.xid, r.seq) > (f.xid, %(after_finished)s) AND r.xid <= f.xid
          AND (r.bucket BETWEEN %(low)s AND %(high)s OR r.op IN ('truncate', 'stopped'))
        ORDER BY r.xid, r.seq LIMIT %(limit)s
     ) l)
) p
ORDER BY p.seq LIMIT %(limit)s
