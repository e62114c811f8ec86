"""Gradient matching and the regions of mosaics: shared by IDC and UDD."""
