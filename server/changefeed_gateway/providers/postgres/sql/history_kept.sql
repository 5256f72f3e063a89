-- Whether a tick is still there, and the log behind it whole, asked after a read from that tick on. Bounds of the log's days
-- that do not meet leave a gap; retention leaves one only in a time that is over. A range of one number, in order: as in
-- ticks_between, so that the index on the numbers is taken.
WITH days AS MATERIALIZED (
    SELECT pg_get_expr(c.relpartbound, c.oid) AS bounds
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = {log_name}::regclass AND NOT i.inhdetachpending
), gaps AS MATERIALIZED (
    SELECT substring(d.bounds FROM 'FROM \(''([^'']+)''\)') AS ends FROM days d
    EXCEPT
    SELECT substring(d.bounds FROM 'TO \(''([^'']+)''\)') FROM days d
)
SELECT NOT EXISTS (
    SELECT FROM gaps g JOIN changefeed.feeds f ON f.feed_id = {feed_id}
    WHERE g.ends::timestamptz > greatest(t.at, clock_timestamp() - f.retention))
FROM {ticks} t WHERE t.id BETWEEN %(id)s AND %(id)s ORDER BY t.id
