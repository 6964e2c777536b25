"""RDED (arXiv 2312.03526): mosaics of the crops that the teacher is surest of, not optimised."""

from delt_jax.config.methods import published

METHOD = published(
    "arXiv 2312.03526",
    {
        "select.start": "rded",
        "recover.iterations": 0,
        "recover.round_iterations": 0,
        "recover.min_iterations": 0,
    },
)
MOSAICS = published(
    "LINs-lab/RDED, scripts/*_cr5.sh and argument.py",
    {
        "select.candidates": 300,
        "select.crops": 5,
        "evaluate.protocol": "rded",
    },
)
PUBLISHED_ON = (
    "imagenet",
    "imagenet100",
    "imagenette",
    "imagewoof",
    "tiny_imagenet",
    "cifar10",
    "cifar100",
)


def settings(data):
    """The mosaics are alike for all data; students of other data train as the recipe says."""
    return METHOD | (MOSAICS if data.name in PUBLISHED_ON else {})
