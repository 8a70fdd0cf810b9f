"""Searching settings: rank cross-validation and tuning studies."""
