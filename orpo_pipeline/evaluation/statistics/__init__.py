"""Figures with intervals, and paired differences, clustered by prompt group."""
