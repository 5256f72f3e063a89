-- Arms the bell, and answers rings up to a value of it, if told so; then makes a tick if it can bring a change. Answers the
-- newest one, whether only new numbers can bring anything, and a time before which everything committed belongs to it: the
-- sequence is read, and who has ended looked at, after that time.
SELECT t.id, t.at, t.last_seq, t.xid, t.snapshot, t.topology, t.quiet, statement_timestamp()
FROM {make_tick}(false, %(arm)s, %(answered)s::bigint) t
