"""`changefeed mirror`: a copy of a collection, kept for ever."""
