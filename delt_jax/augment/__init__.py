"""Augmentations as pairs: a pure function of parameters, and one that draws them from a key."""
