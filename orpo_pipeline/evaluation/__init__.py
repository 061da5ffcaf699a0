"""Measuring models on held-out pairs, and which one may be promoted."""
