"""Answers that the models give: generated in batches, and what is counted in them."""
