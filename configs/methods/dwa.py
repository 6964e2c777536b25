"""DWA (arXiv 2409.17612): real images, variances that count more, weights of every batch's own.

On CIFAR the released code shifts images and does nothing else to them.
"""

from delt_jax.config.methods import SHIFT, for_data, ours, published

METHOD = published(
    "arXiv 2409.17612",
    {
        "select.start": "real",
        "select.rule": "random",
        "recover.layout": "one_per_class",
        "recover.round_iterations": 0,
        "recover.min_iterations": 0,
        "recover.milestone": 0.0,
        "recover.perturbation": 0.015,
    },
)
IMAGENET = published(
    "AngusDujw/Diversity-Driven-Synthesis, scripts/run_imgnet.sh",
    {
        "recover.iterations": 2000,
        "recover.learning_rate": 0.25,
        "recover.bn_weight": 0.01,
        "recover.bn_variance_weight": 2.0,
        "recover.perturbation_steps": 15,
        "recover.batch_size": 100,
        "recover.min_scale": 0.08,
        "recover.jitter": 32,
        "evaluate.protocol": "sre2l",
        "evaluate.batch_size": 128,
    },
)
TINY = published(
    "AngusDujw/Diversity-Driven-Synthesis, scripts/run_tiny.sh",
    {
        "recover.iterations": 2000,
        "recover.learning_rate": 0.1,
        "recover.bn_weight": 0.01,
        "recover.bn_variance_weight": 11.0,
        "recover.perturbation_steps": 12,
        "recover.batch_size": 200,
        "recover.min_scale": 0.08,
        "recover.jitter": 4,
        "evaluate.epochs": 200,
        "evaluate.batch_size": 64,
    },
) | ours({"evaluate.protocol": "sre2l"}, "as for ImageNet-1K; published is SGD on KL times T^2")
CIFAR = published(
    "AngusDujw/Diversity-Driven-Synthesis, scripts/run_cifar.sh",
    {
        "recover.iterations": 1000,
        "recover.learning_rate": 0.25,
        "recover.bn_weight": 0.01,
        "recover.bn_variance_weight": 11.0,
        "recover.perturbation_steps": 12,
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
    of_size = {
        "recover.bn_variance_weight": 2.0 if data.is_large else 11.0,
        "recover.perturbation_steps": 15 if data.is_large else 12,
    }
    return METHOD | for_data(
        data,
        {
            "imagenet": IMAGENET,
            "tiny_imagenet": TINY,
            "cifar10": CIFAR,
            "cifar100": CIFAR,
            "": SHIFT | ours(of_size, "as for the published size that is nearest"),
        },
    )
