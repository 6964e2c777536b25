"""EDC (arXiv 2404.13733) from real images: G-VBSM's statistics and those per class."""

from delt_jax.config.methods import for_data, others, ours, published

METHOD = published(
    "arXiv 2404.13733",
    {
        "select.start": "real",
        "select.rule": "random",
        "recover.layout": "class_major",
        "recover.round_iterations": 0,
        "recover.min_iterations": 0,
        "recover.milestone": 0.0,
        "recover.min_scale": 0.5,
        "recover.jitter": 0,
        "recover.bn_weight": 0.0,
        "recover.terms": ("global_statistics=0.005", "class_statistics=0.005"),
        "recover.statistics_momentum": 0.8,
        "recover.conv_drop": 0.0,
        "recover.round_robin": True,
        "relabel.ensemble": True,
    },
)
RELEASED = "shaoshitong/EDC, Branch_"
# The zoo has neither WRN-16-2 nor a ShuffleNet with a small stem; AlexNet has no BatchNorm.
SMALL_TEACHERS = ("resnet18_modified", "conv3", "mobilenet_v2_modified")
LARGE_TEACHERS = ("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5")


def recovery(branch, iterations, batch_size, more):
    """What is released for a data set; all have one learning rate."""
    same = {"recover.learning_rate": 0.05}
    own = {"recover.iterations": iterations, "recover.batch_size": batch_size}
    return published(f"{RELEASED}{branch}/recover", same | own | more)


def students(batch_size, epochs, min_scale):
    """How they train, by the paper; scripts for CIFAR and Tiny-ImageNet have SGD or steps."""
    return published(
        "arXiv 2404.13733, tables 6 to 10",
        {
            "evaluate.loss": "mse",
            "evaluate.hard_weight": 0.025,
            "evaluate.ema": 0.99,
            "evaluate.batch_size": batch_size,
            "evaluate.epochs": epochs,
            "relabel.min_scale": min_scale,
        },
    ) | ours({"evaluate.protocol": "rded"}, "with its shuffled patches, optimiser and rate")


MOSAICS = {"select.start": "rded"}
TEN_TIMES = {"recover.terms": ("global_statistics=0.05", "class_statistics=0.05")}
SMALL_CROPS = {"recover.min_scale": 0.08}
ALL_OF_IPC_50 = 500  # images of CIFAR-10, which share a batch
IMAGENET10 = ours(
    MOSAICS
    | {
        "recover.iterations": 50,
        "recover.learning_rate": 0.05,
        "recover.batch_size": 100,
        "recover.statistics_momentum": 0.0,
    },
    f"as for ImageNet-10: {RELEASED}ImageNet_10/recover",
)


def settings(data):
    """By data set and size; other images keep the recipe's steps."""
    by_name = {
        "imagenet": recovery("full_ImageNet_1k", 1000, 80, MOSAICS | TEN_TIMES)
        | students(100, 300, 0.5),
        "imagenette": IMAGENET10,
        "imagewoof": IMAGENET10,
        "tiny_imagenet": recovery("Tiny_ImageNet", 2000, 100, {}) | students(100, 300, 0.5),
        "cifar10": recovery("CIFAR_10", 75, ALL_OF_IPC_50, SMALL_CROPS) | students(25, 1000, 0.08),
        "cifar100": recovery("CIFAR_100", 2000, 100, {}) | students(50, 1000, 0.5),
    }
    teachers = others(LARGE_TEACHERS if data.is_large else SMALL_TEACHERS, data)
    return METHOD | teachers | for_data(data, by_name)
