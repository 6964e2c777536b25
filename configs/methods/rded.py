"""RDED (arXiv 2312.03526): mosaics of the crops that the teacher is surest of, not optimised."""


def apply(config):
    config.select.start = "rded"
    config.recover.iterations = 0
    config.recover.round_iterations = 0
    config.recover.min_iterations = 0
