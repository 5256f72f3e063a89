-- As tick, with what follows the tick `base` in the same answer: see migrations/log/functions/ticks.sql.
SELECT t.*, statement_timestamp()
FROM {live}(%(arm)s, %(answered)s::bigint, %(base)s::bigint, %(base_xmax)s::xid8, %(base_xip)s::text[]::xid8[],
    %(known)s::bigint, %(after)s::bigint, %(floor)s::bigint, %(day)s::oid, %(most)s::integer) t
