"""Preference data: read, checked, split, tokenised."""
