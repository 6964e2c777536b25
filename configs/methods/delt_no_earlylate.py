"""DELT without EarlyLate, else the same: every image takes part in all iterations."""


def apply(config):
    config.select.start = "real"
    config.select.rule = "medium"
    config.recover.layout = "class_major"
    config.recover.round_iterations = 0
    config.recover.min_iterations = 0
    config.recover.clock = "batch"
    config.recover.curriculum = "cosine"
    config.recover.milestone = 1.0
    config.recover.jitter = 0
