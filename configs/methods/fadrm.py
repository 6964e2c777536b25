"""FADRM (arXiv 2506.24125): SRe2L from mosaics of real crops, which come back thrice on the way."""


def apply(config):
    config.select.start = "rded"
    config.recover.layout = "one_per_class"
    config.recover.round_iterations = 0
    config.recover.min_iterations = 0
    config.recover.milestone = 0.0
    config.recover.jitter = -1
    config.recover.residual = 0.5
    config.recover.residual_rounds = 4
