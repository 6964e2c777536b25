"""WMDD (arXiv 2311.18531): features to barycentres, BN statistics class by class, from noise.

The weight of the BN statistics is the released one for ImageNette; Tiny-ImageNet's is about 500.
"""


def apply(config):
    config.select.start = "noise"
    config.recover.layout = "whole_classes"
    config.recover.round_iterations = 0
    config.recover.min_iterations = 0
    config.recover.milestone = 0.0
    config.recover.jitter = -1
    config.recover.bn_weight = 0.0
    config.recover.terms = ("class_bn=10", "barycentre=1")
