"""What a student sees of an item: decoders, views, label schemes and their losses, as pure tensor functions."""
