-- Rows of the batches after a base tick, up to and including those of another: what that one sees and the base does
-- not. Here those of transactions that the base's snapshot knew nothing of, which lie in the days `starts` to `ends`; those
-- that it saw under way and that have ended since: page_finished. The first row of the answer holds the number of the tables
-- that it was read from, see history.
SELECT {days}, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
UNION ALL
(SELECT {row}
FROM {log} l
WHERE l.seq > %(after)s AND l.seq <= %(upper)s AND l.xid >= %(base_xmax)s::xid8
  AND pg_visible_in_snapshot(l.xid, %(to_snapshot)s::pg_snapshot)
  AND l.changed_at >= %(starts)s AND l.changed_at < %(ends)s
ORDER BY l.seq LIMIT %(limit)s)
