"""Rewards written by a language model: a small language, the sandbox that runs it, and gates before any training."""
