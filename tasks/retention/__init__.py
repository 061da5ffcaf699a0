"""Retention where the registry and Prefect are: what must stay, and the task `prune`."""
