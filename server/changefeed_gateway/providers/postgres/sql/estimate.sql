-- About how many items a watched table has, as of its last vacuum or analyze; null where nobody has looked.
SELECT sum(c.reltuples) FILTER (WHERE c.reltuples >= 0)::bigint
FROM changefeed.feeds f
JOIN pg_class c ON c.relkind = 'r' AND (c.oid = f.source
    OR c.oid IN (SELECT p.relid FROM pg_partition_tree(f.source) p WHERE p.isleaf))
WHERE f.feed_id = {feed_id}
