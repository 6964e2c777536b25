"""CDA (arXiv 2311.18838): SRe2L whose crops fall from the whole image to small ones."""

from delt_jax.config.methods import SHIFT, for_data, ours, published

METHOD = published(
    "arXiv 2311.18838",
    {
        "select.start": "noise",
        "recover.layout": "one_per_class",
        "recover.round_iterations": 0,
        "recover.min_iterations": 0,
        "recover.curriculum": "cosine",
        "recover.milestone": 1.0,
    },
)
IMAGENET = published(
    "VILA-Lab/SRe2L, CDA/README.md; students by DD-Ranking's table",
    {
        "recover.iterations": 4000,
        "recover.learning_rate": 0.25,
        "recover.bn_weight": 0.01,
        "recover.batch_size": 100,
        "recover.min_scale": 0.08,
        "recover.jitter": 32,
        "evaluate.protocol": "sre2l",
        "evaluate.batch_size": 128,
    },
)
TINY = published(
    "VILA-Lab/SRe2L, CDA/README.md",
    {
        "recover.iterations": 4000,
        "recover.learning_rate": 0.4,
        "recover.bn_weight": 0.05,
        "recover.batch_size": 100,
        "recover.min_scale": 0.08,
        "recover.jitter": 4,
    },
) | ours({"evaluate.protocol": "sre2l"}, "as for ImageNet-1K; published is SGD on KL times T^2")
CIFAR100 = ours(
    {
        "recover.iterations": 1000,
        "recover.learning_rate": 0.25,
        "recover.bn_weight": 0.01,
        "recover.batch_size": 100,
        "recover.min_scale": 0.08,
        "recover.jitter": 4,
    },
    "SRe2L's steps and shift for CIFAR-100 with CDA's crops, of which none are published",
)


def settings(data):
    """By data set; other images keep the recipe's steps."""
    return METHOD | for_data(
        data,
        {
            "imagenet": IMAGENET,
            "tiny_imagenet": TINY,
            "cifar100": CIFAR100,
            "": SHIFT,
        },
    )
