"""What an operator asks of a database: migrations, feeds, an examination."""
