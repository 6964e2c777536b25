"""DELT (arXiv 2411.19946), what every recipe is without a method: EarlyLate from real images.

R is the recipe's.
"""


def apply(config):
    config.select.start = "real"
    config.select.rule = "medium"
    config.recover.layout = "class_major"
    config.recover.clock = "batch"
    config.recover.curriculum = "cosine"
    config.recover.milestone = 1.0
    config.recover.jitter = 0
