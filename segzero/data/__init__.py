"""Data: one schema, `segzero.sample.Sample`, for every data set."""
