-- Which tables a feed's history consists of, as one number; for each time before now that no day of the log takes, its end,
-- which only positions after it can be read from (no end: everything is there; retention leaves gaps only in a time that is
-- over); and the tables of the log themselves, with the seconds since 1970 at which their time begins and ends.
WITH days AS MATERIALIZED (
    SELECT b.part, substring(b.bounds FROM 'FROM \(''([^'']+)''\)')::timestamptz AS starts,
           substring(b.bounds FROM 'TO \(''([^'']+)''\)')::timestamptz AS ends
    FROM (SELECT c.oid AS part, pg_get_expr(c.relpartbound, c.oid) AS bounds
          FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
          WHERE i.inhparent = {log_name}::regclass::oid AND NOT i.inhdetachpending) b
)
SELECT {days}, ARRAY (
    SELECT d.starts FROM days d
    WHERE d.starts IS NOT NULL AND NOT EXISTS (SELECT FROM days b WHERE b.ends = d.starts)
        AND d.starts > clock_timestamp() - (SELECT f.retention FROM changefeed.feeds f WHERE f.feed_id = {feed_id})
        AND coalesce((SELECT max(b.ends) FROM days b WHERE b.ends < d.starts), '-infinity') <= greatest(
            clock_timestamp(), (SELECT t.reached FROM {ticks} t ORDER BY t.id DESC LIMIT 1))
    ORDER BY d.starts DESC),
    ARRAY (SELECT d.part::bigint FROM days d ORDER BY d.part),
    ARRAY (SELECT coalesce(extract(epoch FROM d.starts)::bigint, -9223372036854775808) FROM days d ORDER BY d.part),
    ARRAY (SELECT coalesce(extract(epoch FROM d.ends)::bigint, 9223372036854775807) FROM days d ORDER BY d.part)
