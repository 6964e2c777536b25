"""CDA from DELT's real images: what is left of DELT without EarlyLate and its batches."""


def apply(config):
    config.select.start = "real"
    config.select.rule = "medium"
    config.recover.layout = "one_per_class"
    config.recover.round_iterations = 0
    config.recover.min_iterations = 0
    config.recover.curriculum = "cosine"
    config.recover.milestone = 1.0
    config.recover.jitter = -1
