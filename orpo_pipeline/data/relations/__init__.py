"""Rules that look at many rows: repetition, contradiction, leakage, splits."""
