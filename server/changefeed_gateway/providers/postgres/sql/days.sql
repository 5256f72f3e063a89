(SELECT hashint8extended(pg_relation_filenode({day_name}::regclass)::bigint, 1) # coalesce(bit_xor(hashint8extended(i.inhrelid::bigint, 0)), 0)
 FROM pg_inherits i
 WHERE i.inhparent IN ({log_name}::regclass::oid, {tick_name}::regclass::oid) AND NOT i.inhdetachpending)
