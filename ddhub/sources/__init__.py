"""Real images: data sets with a name, subsets of ImageNet, the user's own folders, and the cache of decoded pixels."""
