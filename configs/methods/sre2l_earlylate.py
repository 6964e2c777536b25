"""SRe2L with EarlyLate and without real images, of DELT's Table 3; R is the recipe's."""


def apply(config):
    config.select.start = "noise"
    config.recover.layout = "one_per_class"
    config.recover.milestone = 0.0
    config.recover.jitter = -1
