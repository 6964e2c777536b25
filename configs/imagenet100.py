"""ImageNet-100, 100 classes of ImageNet-1K: taken out of ImageNet itself, at 128 px.

ImageNet comes from TFDS, or with --config=configs/imagenet100.py:folder=PATH from train/wnid/*.JPEG
and val/wnid/*.JPEG. The wnids are in delt_jax/data/class_lists/imagenet100.txt.

The field's: ConvNet-6 at 128 px (RDED's scores 72.82 %), the evaluation. The
paper has results at IPC 10, 50 and 100.
Recovery's values are the paper's for ImageNet-1K, since it publishes none for this set.
The teacher's training is ours.
"""

from delt_jax.config import default_config, vary

PRESETS = {
    "ipc10": {"ipc": 10},
    "ipc50": {"ipc": 50},
    "ipc100": {"ipc": 100},
}


def get_config(variants=""):
    config = default_config()
    config.ipc = 10
    config.data.name = "tfds"
    config.data.dataset = "imagenet2012"
    config.data.classes = "imagenet100"
    config.data.known_as = "imagenet100"
    config.data.image_size = 128
    config.data.channels = 3
    config.data.fit = "centre"
    config.data.memory_mib = 8192  # decode once

    config.teacher.model = "conv6"
    config.teacher.epochs = 100
    config.teacher.learning_rate = 0.05
    config.teacher.crop_padding = 16

    config.evaluate.students = ("conv6",)
    vary(config, variants, PRESETS, __file__)
    return config
