"""Several processes behind one port: a parent that serves nothing itself, and workers that it keeps going."""
