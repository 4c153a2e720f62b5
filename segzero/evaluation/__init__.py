"""Evaluation: samples and answers are scored (`scoring`), rows of scores become figures (`figures`, `summary`)."""
