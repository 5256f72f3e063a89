-- The tick up to which about `size` changes of one partition key follow the number `after`; no row when fewer do.
SELECT (SELECT t.id FROM {ticks} t WHERE t.last_seq <= s.seq ORDER BY t.last_seq DESC, t.id DESC LIMIT 1)
FROM (SELECT l.seq FROM {log} l
      WHERE (l.bucket, l.seq) > (changefeed.bucket(%(partition_key)s::text), %(after)s)
        AND l.bucket <= changefeed.bucket(%(partition_key)s::text) AND l.partition_key = %(partition_key)s::text
        AND l.changed_at >= %(starts)s
      ORDER BY l.bucket, l.seq OFFSET %(size)s LIMIT 1) s
