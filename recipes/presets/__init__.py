"""Tables of settings, one a method."""
