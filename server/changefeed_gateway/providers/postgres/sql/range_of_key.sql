-- The tick up to which about `size` changes of one partition key follow the number `after`; no row when fewer do.
SELECT (SELECT t.id FROM {ticks} t WHERE t.last_seq <= s.seq ORDER BY t.last_seq DESC, t.id DESC LIMIT 1)
FROM (SELECT l.seq FROM {log} l
      WHERE (l.partition_key, l.seq) > (%(partition_key)s::text, %(after)s) AND l.partition_key <= %(partition_key)s::text
      ORDER BY l.partition_key, l.seq OFFSET %(size)s LIMIT 1) s
