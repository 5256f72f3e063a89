SELECT FROM {ticks} t WHERE t.id = %(id)s
