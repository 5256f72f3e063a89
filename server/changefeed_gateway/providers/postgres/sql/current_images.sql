-- Items as they are now, in the order of `keys`; the text only while it fits into `max_bytes`, the first one always.
SELECT i.key, i.partition_key, i.bytes,
       CASE WHEN i.bytes <= %(max_item_bytes)s AND (i.total <= %(max_bytes)s OR i.place = 1) THEN i.image END
FROM (
    SELECT c.key, c.partition_key, c.image, octet_length(c.image) AS bytes, k.place,
           sum(CASE WHEN octet_length(c.image) <= %(max_item_bytes)s THEN octet_length(c.image) ELSE 0 END)
               OVER (ORDER BY k.place) AS total
    FROM {image_function}(%(keys)s::text[]) c
    JOIN unnest(%(keys)s::text[]) WITH ORDINALITY AS k (key, place) ON k.key = c.key
) i
