"""SRe2L (arXiv 2306.13092): noise, one image per class and batch, crops of every size, shifts.

On CIFAR the released code shifts images and does nothing else to them.
"""

from delt_jax.config.methods import SHIFT, for_data, ours, published

METHOD = published(
    "arXiv 2306.13092",
    {
        "select.start": "noise",
        "recover.layout": "one_per_class",
        "recover.round_iterations": 0,
        "recover.min_iterations": 0,
        "recover.milestone": 0.0,
    },
)
IMAGENET = published(
    "VILA-Lab/SRe2L, SRe2L/recover/recover.sh and validate/train_FKD.sh",
    {
        "recover.iterations": 4000,
        "recover.learning_rate": 0.25,
        "recover.bn_weight": 0.01,
        "recover.batch_size": 100,
        "recover.min_scale": 0.08,
        "recover.jitter": 32,
        "evaluate.protocol": "sre2l",
    },
)
TINY = published(
    "VILA-Lab/SRe2L, *small_dataset/recover_tiny.sh",
    {
        "recover.iterations": 4000,
        "recover.learning_rate": 0.1,
        "recover.bn_weight": 1.0,
        "recover.batch_size": 100,
        "recover.min_scale": 0.08,
        "recover.jitter": 4,
        "recover.jitter_both_ways": True,
    },
) | ours({"evaluate.protocol": "sre2l"}, "as for ImageNet-1K; published is SGD on KL times T^2")
CIFAR100 = published(
    "VILA-Lab/SRe2L, *small_dataset/recover_cifar.sh and relabel_cifar.sh",
    {
        "recover.iterations": 1000,
        "recover.learning_rate": 0.25,
        "recover.bn_weight": 0.01,
        "recover.batch_size": 100,
        "recover.min_scale": 1.0,
        "recover.flip": False,
        "recover.jitter": 4,
        "evaluate.epochs": 400,
        "evaluate.batch_size": 128,
        "relabel.mix": "mixup",
        "relabel.mix_alpha": 0.8,
        "relabel.temperature": 30.0,
    },
) | ours(
    {"evaluate.protocol": "sre2l", "relabel.min_scale": 1.0},
    "with its optimiser; whole images for crops out of 4 px of padding",
)


def settings(data):
    """By data set; other images keep the recipe's steps and crops."""
    return METHOD | for_data(
        data,
        {
            "imagenet": IMAGENET,
            "tiny_imagenet": TINY,
            "cifar100": CIFAR100,
            "": SHIFT,
        },
    )
