"""Cards: the Markdown page of an artifact, rendered from its manifest and results."""
