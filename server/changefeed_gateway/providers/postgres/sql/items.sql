-- Items of a snapshot behind a key, in the order of the key's index; first the snapshot that they were read in. See
-- changefeed.create_items_function.
SELECT i.key, i.partition_key, i.bucket, i.version, i.wanted, i.bytes, i.image, i.problem
FROM {items}(%(after)s::text, %(size)s::bigint, %(max_bytes)s::bigint, %(max_item_bytes)s::bigint,
             %(partition_key)s::text, %(with_bucket)s::boolean) i
