-- Makes a feed's tick if it can bring a change; how far the newest one reaches, and whether only new numbers can bring
-- anything.
SELECT t.last_seq, t.quiet FROM changefeed.tick(%(feed_id)s::integer) t
