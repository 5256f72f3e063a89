-- The images that did not come with their rows, by sequence number; the rows are of the times `first` to `last`.
SELECT l.seq, l.image FROM {log} l
WHERE l.seq = ANY(%(seqs)s) AND l.changed_at BETWEEN %(first)s AND %(last)s
