"""SRe2L from DELT's real images."""


def apply(config):
    config.select.start = "real"
    config.select.rule = "medium"
    config.recover.layout = "one_per_class"
    config.recover.round_iterations = 0
    config.recover.min_iterations = 0
    config.recover.milestone = 0.0
    config.recover.jitter = -1
