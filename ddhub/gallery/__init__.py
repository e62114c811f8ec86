"""The gallery: a static site in which artifacts are seen, compared and chosen; needs the extra `gallery`."""
