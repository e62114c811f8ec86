"""Publication of artifacts and teachers, checked first, to a repository of the Hub or to a folder."""
