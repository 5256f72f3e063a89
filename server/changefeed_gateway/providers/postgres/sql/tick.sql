-- Arms the bell, and answers rings up to a value of it, if told so; then makes a tick if it can bring a change; answers the newest one and whether only new numbers can bring anything.
SELECT t.id, t.at, t.last_seq, t.xid, t.snapshot, t.topology, t.quiet FROM {make_tick}(false, %(arm)s, %(answered)s::bigint) t
