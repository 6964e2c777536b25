"""EDC (arXiv 2404.13733) from random real images: G-VBSM's statistics and those per class."""

_SMALL = ("resnet18_modified", "mobilenet_v2_modified")
_LARGE = ("mobilenet_v2", "shufflenet_v2_x0_5")  # for the teachers of 128 px and more


def apply(config):
    large = config.data.image_size >= 128
    config.teacher.others = _LARGE if large else _SMALL
    config.select.start = "real"
    config.select.rule = "random"
    config.recover.layout = "class_major"
    config.recover.round_iterations = 0
    config.recover.min_iterations = 0
    config.recover.milestone = 0.0
    config.recover.min_scale = 0.5
    config.recover.jitter = 0
    config.recover.bn_weight = 0.0
    config.recover.terms = ("global_statistics=0.005", "class_statistics=0.005")
    config.recover.round_robin = True
    config.relabel.ensemble = True
