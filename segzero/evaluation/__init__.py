"""Evaluation on benchmarks: predictions, their scores, figures with intervals, reports."""
