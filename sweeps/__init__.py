"""Grids, runs and reports: the only package that imports Ray, Optuna and MLflow."""
