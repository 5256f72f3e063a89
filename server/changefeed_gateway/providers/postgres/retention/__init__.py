"""How long a feed's history is kept: days that are made ahead and dropped."""
