-- As page, of a range of buckets, passing over the rows of the others. Truncations, and an end of capture, concern every bucket.
SELECT {days}, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
UNION ALL
(SELECT {row}
FROM {log} l
WHERE l.seq > %(after)s AND l.seq <= %(upper)s AND l.xid >= %(base_xmax)s::xid8
  AND pg_visible_in_snapshot(l.xid, %(to_snapshot)s::pg_snapshot)
  AND l.changed_at >= %(starts)s AND l.changed_at < %(ends)s
  AND (l.bucket BETWEEN %(low)s AND %(high)s OR l.bucket = -1)
ORDER BY l.seq LIMIT %(limit)s)
