SELECT p.partition_id, p.low::int, p.high::int, p.start_tick, p.end_tick
FROM changefeed.partitions p WHERE p.feed_id = %(feed_id)s
