"""CDA with EarlyLate and without real images, of DELT's Table 3; R is the recipe's."""


def apply(config):
    config.select.start = "noise"
    config.recover.layout = "one_per_class"
    config.recover.curriculum = "cosine"
    config.recover.milestone = 1.0
    config.recover.jitter = -1
