"""A pretend GPU, and what of ddhub and of the recipes runs on it."""
