"""Fashion-MNIST: 60,000 training and 10,000 test images, 28 px, grey, read from idx files.

Debian's package `dataset-fashion-mnist` puts the files where data.path points; any folder
with the four files will do. The networks are the field's ConvNet-3 of width 128; iterations
and the teacher's epochs are ours, sized for two CPU cores. The preset `study` has the steps of
docs/study.md for DELT and its ablations; other methods bring their own. The preset `small` has
networks of width 16 and, for sets that are learned, steps for minutes of two CPU cores
(docs/families.md).
"""

from delt_jax.config import default_config, vary

PRESETS = {
    "study": {
        "recover.iterations": 800,
        "recover.round_iterations": 100,
        "recover.learning_rate": 0.05,
    },
    "small": {"learn.small": True, "teacher.width": 16, "evaluate.width": 16},
}


def get_config(variants=""):
    config = default_config()
    config.ipc = 10
    config.data.name = "idx"
    config.data.known_as = "fashion_mnist"
    config.data.path = "/usr/share/datasets/fashion-mnist"
    config.data.class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )

    config.teacher.model = "conv3"
    config.teacher.epochs = 5
    config.teacher.learning_rate = 0.1
    config.teacher.schedule = "one_cycle"
    config.teacher.crop_padding = 2

    # Few and small steps, so that images stay near the real ones: what was best of those tried
    # on validation images (docs/study.md). 8 rounds as in the paper.
    config.recover.iterations = 400  # T; the paper's 4000 are for ImageNet-1K
    config.recover.round_iterations = 50  # R
    config.recover.learning_rate = 0.01

    config.evaluate.students = ("conv3",)
    config.evaluate.protocol = "delt_jax"  # its 300 epochs
    config.evaluate.eval_every = 150
    vary(config, variants, PRESETS, __file__)
    return config
