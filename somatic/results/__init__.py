"""Results: what is done, and the table and all else that is made of it."""
