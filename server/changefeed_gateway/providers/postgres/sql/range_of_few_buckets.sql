-- The tick up to which about `size` changes of a few buckets follow the number `after`; no row when fewer do.
SELECT (SELECT t.id FROM {ticks} t WHERE t.last_seq <= s.seq ORDER BY t.last_seq DESC, t.id DESC LIMIT 1)
FROM (SELECT l.seq
      FROM generate_series(%(low)s::int, %(high)s::int) AS b (bucket)
      CROSS JOIN LATERAL (
          SELECT r.seq FROM {log} r
          WHERE (r.bucket, r.seq) > (b.bucket, %(after)s) AND r.bucket <= b.bucket AND r.changed_at >= %(starts)s
          ORDER BY r.bucket, r.seq LIMIT %(size)s + 1
      ) l
      ORDER BY l.seq OFFSET %(size)s LIMIT 1) s
