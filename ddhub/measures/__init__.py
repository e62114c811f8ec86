"""Measures of data: complexity of classes, class activation maps, utilisation of pixels, pictures of mosaics."""
