"""Rules that look at one pair: its characters, secrets, text, structure and scores."""
