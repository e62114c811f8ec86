"""Programs for those who work on the project: nothing a user runs."""
