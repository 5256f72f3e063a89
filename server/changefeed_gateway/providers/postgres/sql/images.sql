-- The images that did not come with their rows, by sequence number.
SELECT l.seq, l.image FROM {log} l WHERE l.seq = ANY(%(seqs)s)
