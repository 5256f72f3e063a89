-- The last number that each feed's sequence gave, the last tick at which its partitions changed, and a time before
-- which these were so. No feed on a standby, where no ticks are made.
SELECT f.feed_id,
       coalesce(pg_sequence_last_value(to_regclass('changefeed_log.seq_' || f.feed_id::text)), 0)::bigint,
       coalesce((SELECT max(p.start_tick) FROM changefeed.partitions p WHERE p.feed_id = f.feed_id), 0),
       statement_timestamp()
FROM changefeed.feeds f
WHERE NOT pg_is_in_recovery()
