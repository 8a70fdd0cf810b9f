"""Evaluation: how well a model predicts, and what the paper reports."""
