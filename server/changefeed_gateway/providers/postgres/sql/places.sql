-- Where each of some keys lies in that order: 0 up to low, 1 up to high, 2 beyond.
SELECT {places}(%(keys)s::text[], %(low)s::text, %(high)s::text)
