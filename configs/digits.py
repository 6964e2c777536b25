"""scikit-learn's digits: 1,797 real scans, small enough for two CPU cores in minutes.

The embedded default data set. The rounds have DELT's shape at a length that a CPU likes; the
other values are ours, chosen on validation images.
"""

from delt_jax.config import default_config, vary


def get_config(variants=""):
    config = default_config()
    # With 10 images per class random ones come within a point of the teacher, and nothing is left
    # to gain; with 3 or 1 single classes fail in some seeds.
    config.ipc = 5
    config.data.name = "digits"
    config.data.known_as = "digits"
    config.data.flip = False  # a mirrored 2 is no digit

    config.teacher.model = "conv3"
    config.teacher.width = 32
    config.teacher.epochs = 40
    config.teacher.batch_size = 64
    config.teacher.learning_rate = 0.05
    config.teacher.crop_padding = 1

    # An image joins in each of the first five rounds; the last one is optimised for 200 steps.
    config.recover.iterations = 400  # T; the paper's 4000 are for ImageNet-1K
    config.recover.round_iterations = 50  # R, so 8 rounds as in the paper
    # Small steps as in fashion_mnist.py: at 0.05 the means are no better, and a class falls to 46 %
    # with hard labels in one seed.
    config.recover.learning_rate = 0.01
    config.recover.bn_weight = 0.05
    config.recover.min_scale = 0.5  # crops of 8 px images say little below this

    config.learn.small = True  # sets that are learned without a teacher

    config.evaluate.students = ("conv3",)
    config.evaluate.width = 32
    # Crops from half the area on, and ten times DELT's rate, at which random real images did best
    # with both kinds of labels. At DELT's rate 300 epochs leave students half trained, and with
    # online labels they miss classes 3 and 4, whose names the teacher gives to one augmented view
    # in forty each.
    config.evaluate.protocol = "delt_jax"
    config.evaluate.learning_rates = (0.01,)
    config.evaluate.seeds = 5  # half the images leave time for them
    config.evaluate.eval_every = 100  # the last epoch counts; looks at the test images take time
    vary(config, variants, {}, __file__)
    return config
