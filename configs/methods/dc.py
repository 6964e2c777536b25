"""DC (arXiv 2006.05929): images whose gradients are those of real ones, from noise.

DSA without its augmentation, also of students, whose loop makes an epoch more than it is asked. A
set that is learned without a teacher: see docs/learned.md.
"""

from delt_jax.config.methods import published, sibling

CODE = "VICO-UoE/DatasetCondensation, main.py and utils.py"
METHOD = published(
    CODE,
    {
        "learn.method": "dc",
        "learn.augment": "",
        "learn.start": "noise",
        "evaluate.epochs": 301,
        "relabel.dsa": "",
    },
)
MNIST = published(
    CODE,
    {"evaluate.epochs": 1001, "relabel.dsa": "one-crop_scale_rotate"},
)


def settings(data):
    """By data set and images per class, as DSA's."""
    students = MNIST if data.name == "mnist" else {}
    return sibling(__file__, "dsa", data) | METHOD | students
