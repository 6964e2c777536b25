"""MNIST: 60,000 training and 10,000 test images, 28 px, grey, from TFDS or from idx files.

idx files: --config.data.name=idx --config.data.path=FOLDER. No decoupled method publishes values
for MNIST; the networks are the field's ConvNet-3 of width 128, the rest is ours.
"""

from delt_jax.config import default_config, vary


def get_config(variants=""):
    config = default_config()
    config.ipc = 10
    config.data.name = "tfds"
    config.data.dataset = "mnist"
    config.data.known_as = "mnist"
    config.data.flip = False  # a mirrored 2 is no digit

    config.teacher.model = "conv3"
    config.teacher.epochs = 5
    config.teacher.schedule = "one_cycle"
    config.teacher.crop_padding = 2

    config.recover.iterations = 800  # T; the paper's 4000 are for ImageNet-1K
    config.recover.round_iterations = 100  # R, so 8 rounds as in the paper
    config.recover.learning_rate = 0.05
    config.recover.min_scale = 0.5

    config.evaluate.students = ("conv3",)
    config.evaluate.epochs = 150
    config.evaluate.eval_every = 75
    config.relabel.min_scale = 0.5
    vary(config, variants, {}, __file__)
    return config
