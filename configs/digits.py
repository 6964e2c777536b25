"""scikit-learn's digits: 1,797 real scans, small enough for two CPU cores in minutes.

The embedded default data set. The schedule has DELT's shape (8 rounds) at a length that a CPU
likes; the other values are ours, chosen on this data set.
"""

from delt_jax.config import default_config, vary


def get_config(variants=""):
    config = default_config()
    config.ipc = 10
    config.data.name = "digits"
    config.data.flip = False  # a mirrored 2 is no digit

    config.teacher.model = "conv3"
    config.teacher.width = 32
    config.teacher.epochs = 40
    config.teacher.batch_size = 64
    config.teacher.learning_rate = 0.05
    config.teacher.crop_padding = 1

    config.recover.iterations = 400  # T; the paper's 4000 are for ImageNet-1K
    config.recover.round_iterations = 50  # R, so 8 rounds as in the paper
    config.recover.learning_rate = 0.05
    config.recover.bn_weight = 0.05
    config.recover.min_scale = 0.5  # crops of 8 px images say little below this

    config.evaluate.students = ("conv3",)
    config.evaluate.width = 32
    config.relabel.min_scale = 0.5
    vary(config, variants, {}, __file__)
    return config
