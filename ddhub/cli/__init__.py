"""The command line: one file a command, and `app` that joins them."""
