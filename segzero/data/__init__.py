"""Data: one schema, `segzero.data.sample.Sample`, for every data set."""
