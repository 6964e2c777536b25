"""G-VBSM (arXiv 2311.17950) from noise: teachers in turn, statistics of BN and convolutions."""

_SMALL = ("resnet18_modified", "mobilenet_v2_modified")
_LARGE = ("mobilenet_v2", "shufflenet_v2_x0_5")  # for the teachers of 128 px and more


def apply(config):
    large = config.data.image_size >= 128
    config.teacher.others = _LARGE if large else _SMALL
    config.select.start = "noise"
    config.recover.layout = "class_major"
    config.recover.round_iterations = 0
    config.recover.min_iterations = 0
    config.recover.milestone = 0.0
    config.recover.jitter = -1
    config.recover.bn_weight = 0.0
    config.recover.terms = ("global_statistics=0.01", "densification=1.0")
    config.recover.statistics_momentum = 0.4 if large else 0.8
    config.recover.conv_drop = 0.0 if large else 0.4
    config.recover.round_robin = True
    config.relabel.ensemble = True
