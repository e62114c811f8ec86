"""Real images: data sets known by name, subsets of ImageNet, your own folders, and the cache of decoded pixels."""
