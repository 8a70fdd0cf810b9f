"""What MLflow shows of the store."""
