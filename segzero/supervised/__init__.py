"""Supervised training: answers learnt by heart before reinforcement learning."""
