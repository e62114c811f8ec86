"""Hostile artifacts, one for every threat: `THREATS` by name.

Each is a sound artifact of six images of 3 x 4 x 6 pixels with one thing changed, or a teacher.
"""

from tests.hostile import columns, files, images, pictures, teachers, tensors, texts  # each enters its own
from tests.hostile._threats import THREATS, Threat

__all__ = ["THREATS", "Threat", "columns", "files", "images", "pictures", "teachers", "tensors", "texts"]
