-- Answers rings up to a value of the bell, and makes a tick if it can bring a change; with nothing found arms the bell, if told
-- so, and looks once more. Answers the newest tick, whether only new numbers can bring anything, whether the bell is armed, and
-- a time before which everything committed belongs to that tick: the sequence is read, and who has ended looked at, after it.
SELECT t.id, t.at, t.last_seq, t.xid, t.snapshot, t.topology, t.day, t.quiet, t.armed, statement_timestamp()
FROM {make_tick}(false, %(arm)s, %(answered)s::bigint) t
