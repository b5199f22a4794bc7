"""Results: where they lie, what is done, and the table that is made of it."""
