"""Tiny-ImageNet: 200 classes, 100,000 training and 10,000 test images, 64 px, from its folder.

--config.data.path names the folder as it is unpacked (train/, val/ and val_annotations.txt). Its
classes come in sorted order; --config.data.classes=PATH/wnids.txt takes the order of that file,
for teachers that were trained on it.

The paper's: IPC 1, 10 and 50, the modified ResNet-18 (RDED's teacher scores 61.98 %), the
evaluation. It publishes no values of recovery for Tiny-ImageNet; T, learning rate and BN weight
are CDA's for this set, R makes the paper's 8 rounds.
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
    config.data.name = "folder"
    config.data.known_as = "tiny_imagenet"
    config.data.path = "tiny-imagenet-200"
    config.data.image_size = 64
    config.data.channels = 3
    config.data.memory_mib = 2048  # decode once

    config.teacher.model = "resnet18_modified"
    config.teacher.epochs = 50

    config.recover.iterations = 4000
    config.recover.round_iterations = 500
    config.recover.learning_rate = 0.4
    config.recover.bn_weight = 0.05

    config.evaluate.students = ("resnet18_modified",)
    vary(config, variants, PRESETS, __file__)
    return config
