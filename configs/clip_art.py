"""Open Clip Art: eight classes of drawings in colour, 2,293 pictures at 64 px, a fifth to test on.

benchmarks/clip_art.py makes the folder out of Debian's package `openclipart-png`: drawings on white
paper, square. The classes are broad, such as food and people, with 164 to 320 pictures each. All
values are ours. Methods bring those that are published for Tiny-ImageNet, whose pictures have the
same size.
"""

from delt_jax.config import default_config, vary


def get_config(variants=""):
    config = default_config()
    config.ipc = 10
    config.data.name = "folder"
    config.data.known_as = "clip_art"
    config.data.path = "runs/clip_art"
    config.data.image_size = 64
    config.data.channels = 3

    config.teacher.model = "conv4"
    config.teacher.width = 64
    config.teacher.epochs = 40
    config.teacher.batch_size = 64
    config.teacher.learning_rate = 0.05

    # On validation images as good as 1000 steps at 0.05, which turn drawings into edges on noise.
    config.recover.iterations = 400
    config.recover.round_iterations = 50  # 8 rounds as in the paper
    config.recover.learning_rate = 0.01

    config.evaluate.students = ("conv4",)
    config.evaluate.width = 64
    config.evaluate.protocol = "delt_jax"
    config.evaluate.eval_every = 150
    vary(config, variants, {}, __file__)
    return config
