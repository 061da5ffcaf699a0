"""The words of the project: configuration, preference pairs, hardware, plans and results."""
