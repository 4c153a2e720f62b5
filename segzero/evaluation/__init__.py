"""Evaluation: `segzero.evaluation.metrics` scores masks against the truth."""
