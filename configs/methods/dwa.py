"""DWA (arXiv 2409.17612): real images, variances that count more, weights of every batch's own."""


def apply(config):
    large = config.data.image_size >= 128  # else as for CIFAR and Tiny-ImageNet
    config.select.start = "real"
    config.select.rule = "random"
    config.recover.layout = "one_per_class"
    config.recover.round_iterations = 0
    config.recover.min_iterations = 0
    config.recover.milestone = 0.0
    config.recover.jitter = -1
    config.recover.bn_variance_weight = 2.0 if large else 11.0
    config.recover.perturbation = 0.015
    config.recover.perturbation_steps = 15 if large else 12
