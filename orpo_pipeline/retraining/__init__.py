"""Training again: what the sources hold now, what is new in it, and whether it is worth it."""
