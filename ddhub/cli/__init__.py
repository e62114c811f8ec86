"""The command line: a file for each command, and `app`, which joins them."""
