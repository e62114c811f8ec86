"""The artifact, format 1: manifest, stored images, tensors, results, and the readers that refuse damaged files."""
