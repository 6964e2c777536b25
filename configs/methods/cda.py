"""CDA (arXiv 2311.18838): SRe2L whose crops fall from the whole image to small ones."""


def apply(config):
    config.select.start = "noise"
    config.recover.layout = "one_per_class"
    config.recover.round_iterations = 0
    config.recover.min_iterations = 0
    config.recover.curriculum = "cosine"
    config.recover.milestone = 1.0
    config.recover.jitter = -1
