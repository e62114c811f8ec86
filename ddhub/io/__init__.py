"""Files and values: files written whole or not at all, strict JSON, and the one way to check a value."""
