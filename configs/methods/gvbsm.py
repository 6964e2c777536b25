"""G-VBSM (arXiv 2311.17950) from noise: teachers in turn, statistics of BN and convolutions.

Images of up to 64 px are padded and cut at random instead of cropped and resized. The released
shift of up to 32 px at 32 px is scaled for other small images, for which nobody would choose it.
"""

from delt_jax.config.methods import SHIFT, for_data, others, ours, published

METHOD = published(
    "arXiv 2311.17950",
    {
        "select.start": "noise",
        "recover.layout": "class_major",
        "recover.round_iterations": 0,
        "recover.min_iterations": 0,
        "recover.milestone": 0.0,
        "recover.bn_weight": 0.0,
        "recover.terms": ("global_statistics=0.01", "densification=1.0"),
        "recover.round_robin": True,
        "relabel.ensemble": True,
    },
)
RELEASED = "shaoshitong/G_VBSM_Dataset_Condensation, Branch_"
SMALL = {"recover.statistics_momentum": 0.8, "recover.conv_drop": 0.4}
LARGE = {"recover.statistics_momentum": 0.4, "recover.conv_drop": 0.0}
# The zoo has neither WRN-16-2 nor a ShuffleNet with a small stem, the other two for small images.
SMALL_TEACHERS = ("resnet18_modified", "conv3", "mobilenet_v2_modified")
LARGE_TEACHERS = ("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5")
IMAGENET = published(
    f"{RELEASED}full_ImageNet_1k",
    {
        "recover.iterations": 4000,
        "recover.learning_rate": 0.1,
        "recover.batch_size": 80,
        "recover.min_scale": 0.08,
        "recover.jitter": 32,
        "evaluate.loss": "mse",
        "evaluate.hard_weight": 0.1,
    },
) | ours({"evaluate.protocol": "sre2l"}, "with its views and optimiser")


def small(branch, padding, students):
    """What is released for small images, padded by so many pixels; and how students train."""
    recovery = {
        "recover.iterations": 4000,
        "recover.learning_rate": 0.05,
        "recover.batch_size": 100,
        "recover.crop_padding": padding,
        "recover.jitter": 32,
        "evaluate.loss": "mse",
    }
    return published(f"{RELEASED}{branch}", recovery | students)


SGD = {
    "evaluate.optimiser": "sgd",
    "evaluate.learning_rates": (0.1,),
    "evaluate.weight_decay": 5e-4,
}
TINY = small(
    "Tiny_ImageNet",
    8,
    SGD | {"evaluate.hard_weight": 0.1, "evaluate.epochs": 100, "evaluate.batch_size": 100},
) | ours({"evaluate.protocol": "sre2l"}, "with its views and schedule")
CIFAR10 = small(
    "CIFAR_10",
    4,
    {
        "evaluate.hard_weight": 0.15,
        "evaluate.epochs": 1000,
        "evaluate.batch_size": 100,
        "evaluate.weight_decay": 0.0,
    },
) | ours({"evaluate.protocol": "sre2l"}, "with its views and optimiser")
CIFAR100 = small(
    "CIFAR_100",
    4,
    SGD | {"evaluate.hard_weight": 0.15, "evaluate.epochs": 1000, "evaluate.batch_size": 64},
) | ours({"evaluate.protocol": "sre2l"}, "with its views and schedule")


def settings(data):
    """By data set and size; other images keep the recipe's steps and crops."""
    by_name = {
        "imagenet": IMAGENET,
        "tiny_imagenet": TINY,
        "cifar10": CIFAR10,
        "cifar100": CIFAR100,
        "": SHIFT,
    }
    teachers = others(LARGE_TEACHERS if data.is_large else SMALL_TEACHERS, data)
    of_size = published("arXiv 2311.17950, by size", LARGE if data.is_large else SMALL)
    return METHOD | of_size | teachers | for_data(data, by_name)
