"""`changefeed demo`: people edit documents, a consumer mirrors them, and both sides are compared."""
