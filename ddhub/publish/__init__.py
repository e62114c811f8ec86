"""Publication of an artifact: to a repository of the Hub or to a folder, after it was checked."""
