-- Makes a tick if it can bring a change; answers the newest one and whether only new numbers can bring anything.
SELECT t.id, t.at, t.last_seq, t.xid, t.snapshot, t.topology, t.quiet FROM {make_tick}(false) t
