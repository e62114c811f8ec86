"""To and from other formats: `ddhub export` and `ddhub import`."""
