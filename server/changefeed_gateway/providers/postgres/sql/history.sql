-- Which tables a feed's history consists of, as one number; and, for each time before now that no day of the log takes, its
-- end, which only positions after it can be read from. No end: everything is there. Retention leaves gaps only in a time
-- that is over.
WITH days AS MATERIALIZED (
    SELECT substring(b.bounds FROM 'FROM \(''([^'']+)''\)')::timestamptz AS starts,
           substring(b.bounds FROM 'TO \(''([^'']+)''\)')::timestamptz AS ends
    FROM (SELECT pg_get_expr(c.relpartbound, c.oid) AS bounds
          FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
          WHERE i.inhparent = {log_name}::regclass AND NOT i.inhdetachpending) b
)
SELECT {days}, ARRAY (
    SELECT d.starts FROM days d
    WHERE d.starts IS NOT NULL AND NOT EXISTS (SELECT FROM days b WHERE b.ends = d.starts)
        AND d.starts > clock_timestamp() - (SELECT f.retention FROM changefeed.feeds f WHERE f.feed_id = {feed_id})
        AND coalesce((SELECT max(b.ends) FROM days b WHERE b.ends < d.starts), '-infinity') <= greatest(
            clock_timestamp(), (SELECT t.reached FROM {ticks} t ORDER BY t.id DESC LIMIT 1))
    ORDER BY d.starts DESC)
