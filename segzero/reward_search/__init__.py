"""Search for a reward: candidates are written, gated, compared on recorded answers, and tried in short trainings."""
