"""ImageNet-1K at 64 px with ConvNet-4: the paper's small-network experiment.

ImageNet comes from TFDS (imagenet2012), or with --config=configs/imagenet_conv4.py:folder=PATH
from train/wnid/*.JPEG and val/wnid/*.JPEG. Presets: ipc50 (the default), ipc1 and ipc10.

The paper's: networks, size, recovery (the defaults) and evaluation. Its teacher is RDED's, which
scores 43.6 %: take it with --config.teacher.weights=PATH, --config.data.mean and
--config.data.std. Otherwise one is trained here, with values of ours.
"""

from delt_jax.config import default_config, vary

PRESETS = {
    "ipc1": {"ipc": 1, "recover.round_iterations": 0},
    "ipc10": {"ipc": 10},
    "ipc50": {"ipc": 50},
}


def get_config(variants=""):
    config = default_config()
    config.ipc = 50
    config.data.name = "tfds"
    config.data.dataset = "imagenet2012"
    config.data.classes = "imagenet"
    config.data.known_as = "imagenet"
    config.data.image_size = 64
    config.data.channels = 3
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.data.memory_mib = 20_000  # 15.8 GB of pixels: decode once, on disk

    config.teacher.model = "conv4"
    config.teacher.epochs = 30
    config.teacher.batch_size = 256
    config.teacher.learning_rate = 0.1

    config.evaluate.students = ("conv4",)
    config.evaluate.images = ("recovered", "selected")
    config.evaluate.regimes = ("online",)
    config.evaluate.eval_every = 100  # ours: the paper looks every 10 epochs and reports the best
    vary(config, variants, PRESETS, __file__)
    return config
