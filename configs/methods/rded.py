"""RDED (arXiv 2312.03526): mosaics of the crops that the teacher is surest of, not optimised."""

from delt_jax.config.methods import ours, published

METHOD = published(
    "arXiv 2312.03526",
    {
        "select.start": "rded",
        "recover.iterations": 0,
        "recover.round_iterations": 0,
        "recover.min_iterations": 0,
    },
)
SCRIPTS = "LINs-lab/RDED, scripts/*_cr5.sh and argument.py"
MOSAICS = {"select.candidates": 300, "select.crops": 5}
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
    mosaics = MOSAICS
    if data.image_size:
        mosaics = mosaics | {"select.mosaic": 2 if data.is_large else 1}
    if data.name not in PUBLISHED_ON:
        return METHOD | ours(mosaics, "as for all data of RDED")
    of_students = {"evaluate.protocol": "rded"}
    return METHOD | published(SCRIPTS, mosaics | of_students)
