"""Your own images: --config=folder:folder=PATH, or --config.data.path=PATH, is enough.

PATH holds a folder per class, or train/ and val/ (or test/) with a folder per class each; see
docs/data.md. What is 0 or "" below is derived from the data by delt_jax/config/derive.py, and
printed; set it to have your say. All values are ours; T and R keep the paper's 8 rounds.
"""

from delt_jax.config import default_config, vary


def get_config(variants=""):
    config = default_config()
    config.ipc = 0
    config.data.name = "folder"
    config.data.image_size = 0
    config.data.channels = 0

    config.select.small_classes = "repeat"  # one tiny class does not lower ipc for all

    config.teacher.model = ""
    config.teacher.width = 64  # half the field's ConvNets, and ResNet-18's own
    config.teacher.epochs = 0
    config.teacher.learning_rate = 0.05
    config.teacher.batch_size = 64

    config.recover.iterations = 400
    config.recover.round_iterations = 50
    config.recover.learning_rate = 0.01  # as two sets of small images have it (docs/study.md)

    config.evaluate.students = ("",)
    config.evaluate.width = 64
    config.evaluate.images = ("recovered", "random")
    config.evaluate.regimes = ("online",)  # add "hard" to see what the labels alone teach
    config.evaluate.epochs = 0
    config.evaluate.eval_every = 50
    vary(config, variants, {}, __file__)
    return config
