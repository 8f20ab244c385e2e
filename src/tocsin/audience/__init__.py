"""Stage 2 of 7, audience: a `where` becomes a question, one SQL statement, and the people it means."""
