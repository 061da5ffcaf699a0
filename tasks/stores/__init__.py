"""Where Prefect and MLflow keep their records when that is not the state folder."""
