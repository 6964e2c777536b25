"""ImageNet-1K at 224 px with ResNet-18: the paper's main experiment.

ImageNet comes from TFDS (imagenet2012), or with --config=configs/imagenet.py:folder=PATH from the
usual train/wnid/*.JPEG and val/wnid/*.JPEG. The paper's presets: ipc50 (the default), ipc1, ipc10
and ipc100, e.g. --config=configs/imagenet.py:ipc10,folder=/data/imagenet.

All values are the paper's but those marked ours; recovery's T 4000, R 500, learning rate 0.25, BN
weight 0.01, batch 100 and cosine curriculum are the defaults.
"""

from delt_jax.config import default_config, vary

PRESETS = {
    "ipc1": {"ipc": 1, "recover.round_iterations": 0},
    "ipc10": {"ipc": 10},
    "ipc50": {"ipc": 50},
    "ipc100": {"ipc": 100},
}


def get_config(variants=""):
    config = default_config()
    config.ipc = 50
    config.data.name = "tfds"
    config.data.dataset = "imagenet2012"
    config.data.classes = "imagenet"
    config.data.known_as = "imagenet"
    config.data.image_size = 224
    config.data.channels = 3
    config.data.fit = "centre"  # of 256 px
    config.data.mean = (0.485, 0.456, 0.406)  # what the teacher was trained with
    config.data.std = (0.229, 0.224, 0.225)

    config.teacher.model = "resnet18"
    config.teacher.weights = "hf:timm/resnet18.tv_in1k"  # torchvision's IMAGENET1K_V1

    config.evaluate.students = ("resnet18",)
    config.evaluate.images = ("recovered", "selected")
    config.evaluate.regimes = ("online",)
    config.evaluate.eval_every = 100  # ours: the paper looks every 10 epochs and reports the best
    vary(config, variants, PRESETS, __file__)
    return config
