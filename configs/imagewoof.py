"""ImageWoof, ten classes of ImageNet-1K: taken out of ImageNet itself, at 128 px.

ImageNet comes from TFDS, or with --config=configs/imagewoof.py:folder=PATH from train/wnid/*.JPEG
and val/wnid/*.JPEG. The wnids are in delt_jax/data/class_lists/imagewoof.txt.

The field's: ConvNet-5 at 128 px (RDED's scores 67.40 %), the evaluation. The
paper has no results for it; others of its family do, at IPC 1, 10 and 50.
Recovery's values are the paper's for ImageNet-1K, since it publishes none for this set.
The teacher's training is ours.
"""

from delt_jax.config import default_config, vary

PRESETS = {
    "ipc1": {"ipc": 1, "recover.round_iterations": 0},
    "ipc10": {"ipc": 10},
    "ipc50": {"ipc": 50},
}


def get_config(variants=""):
    config = default_config()
    config.ipc = 10
    config.data.name = "tfds"
    config.data.dataset = "imagenet2012"
    config.data.classes = "imagewoof"
    config.data.known_as = "imagewoof"
    config.data.image_size = 128
    config.data.channels = 3
    config.data.fit = "centre"
    config.data.memory_mib = 8192  # decode once

    config.teacher.model = "conv5"
    config.teacher.epochs = 100
    config.teacher.learning_rate = 0.05
    config.teacher.crop_padding = 16

    config.evaluate.students = ("conv5",)
    vary(config, variants, PRESETS, __file__)
    return config
