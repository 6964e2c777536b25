"""Augmentations in pairs: a pure function of parameters, and one that draws these from a key.

May import `runtime`, `store`, `core` and `errors`.
"""
