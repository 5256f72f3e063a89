l.seq, l.xid, l.changed_at, l.op, l.created, l.partition_key, l.key,
       CASE WHEN octet_length(l.image) <= 8192 THEN l.image END, octet_length(l.image), l.bucket, l.annotations
