"""The edge: Prefect tasks, child processes and MLflow."""
