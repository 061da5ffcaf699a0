"""Answers of registered versions: models in memory, conversations, sampling."""
