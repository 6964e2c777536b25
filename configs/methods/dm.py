"""DM (arXiv 2110.04181): images whose features have the means of real ones, in fresh networks.

A set that is learned without a teacher: see docs/learned.md.
"""

from delt_jax.config.methods import ours, published

CODE = "VICO-UoE/DatasetCondensation, main_DM.py"
METHOD = published(
    CODE,
    {
        "synthesis": "learn",
        "learn.method": "dm",
        "learn.width": 0,
        "learn.steps": 20_000,
        "learn.real_batch": 256,
        "learn.label_rate": 0.0,
        "learn.network_rate": 0.0,
        "learn.network_steps": 0,
        "learn.lifetime": 1,
        "learn.augment": "one-color_crop_cutout_flip_scale_rotate",
        "learn.factor": 1,
        "learn.mirrored": False,
        "learn.preprocessing": "standardise",
        "learn.start": "random",
        "evaluate.protocol": "dsa",
        "evaluate.regimes": ("hard",),
    },
)
SETS = ours(
    {
        "evaluate.images": ("recovered", "random"),
        "evaluate.learning_rates": (),
        "evaluate.epochs": None,
        "evaluate.eval_every": None,
        "relabel.min_scale": None,
    },
    "beside as many real images",
)


def settings(data):
    """By depth of the network, and by images per class."""
    depth = 3 if data.image_size <= 32 else 4 if data.image_size <= 64 else 5
    by_data = {
        "learn.model": f"dc_conv{depth}",
        "evaluate.students": (f"dc_conv{depth}",),
    }
    many = data.ipc >= 100
    rate = {"learn.image_rate": 10.0 if many else 1.0}
    is_known = not many or data.name == "cifar10"
    of_rate = published(CODE, rate) if is_known else ours(rate, "as for CIFAR-10")
    return METHOD | published(CODE, by_data) | of_rate | SETS | (small(data) if data.small else {})


def small(data):
    """For minutes of two CPU cores."""
    width = 32 if data.image_size < 16 else 16
    settings = {
        "learn.steps": 2000 if data.image_size < 16 else 1000,
        "learn.width": width,
        "learn.real_batch": 64,
    }
    return ours(settings, "minutes of two CPU cores")
