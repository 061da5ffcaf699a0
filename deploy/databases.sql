-- Run by the postgres image when its volume is new: the names that ORPO_DATABASE_URL expects.
create database orpo_prefect;
create database orpo_mlflow;
