//! Real MLflow: models saved by it, its server, its scoring functions in our worker.
