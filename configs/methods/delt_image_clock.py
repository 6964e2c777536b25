"""DELT in which every image counts its own iterations: none that joins late misses a thing.

Learning rate, curriculum and Adam's bias correction of an image run from its own start to the end.
"""


def apply(config):
    config.select.start = "real"
    config.select.rule = "medium"
    config.recover.layout = "class_major"
    config.recover.clock = "image"
    config.recover.curriculum = "cosine"
    config.recover.milestone = 1.0
    config.recover.jitter = 0
