-- A range, in order: as in ticks_between, so that the index on the numbers is taken.
SELECT FROM {ticks} t WHERE t.id BETWEEN %(id)s AND %(id)s ORDER BY t.id
