"""HTTP routes, a router for each subject."""
