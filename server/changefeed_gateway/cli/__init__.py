"""`changefeed ...`: an ordinary client of the API, and the operator's commands."""
