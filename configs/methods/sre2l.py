"""SRe2L (arXiv 2306.13092): noise, one image per class and batch, crops of every size, shifts."""


def apply(config):
    config.select.start = "noise"
    config.recover.layout = "one_per_class"
    config.recover.round_iterations = 0
    config.recover.min_iterations = 0
    config.recover.milestone = 0.0
    config.recover.jitter = -1
