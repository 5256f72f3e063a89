"""A feed's change log as it is read: positions to rows, rows to pages."""
