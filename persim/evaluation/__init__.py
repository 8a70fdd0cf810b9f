"""Evaluation of models and policies, and the numbers that the paper reports."""
