-- In order of their numbers, so that the index on them is taken: a plan made while a day was empty has no other reason to.
SELECT t.id, t.at, t.last_seq, t.xid::text, t.snapshot::text, t.topology, t.day FROM {ticks} t
WHERE t.id BETWEEN %(low)s AND %(high)s ORDER BY t.id
