"""How a student is trained and scored: the class `Protocol`, and the protocols of the papers by name."""
