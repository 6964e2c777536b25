"""IDC (arXiv 2205.14959): several small images in each, matched by gradients; IDC-I is factor 1.

A set that is learned without a teacher: see docs/learned.md.
"""

from delt_jax.config.methods import ours, published

CODE = "snu-mllab/Efficient-Dataset-Condensation, argument.py and misc/reproduce.py"
METHOD = published(
    CODE,
    {
        "synthesis": "learn",
        "learn.method": "idc",
        "learn.width": 0,
        "learn.real_batch": 64,
        "learn.label_rate": 0.0,
        "learn.network_rate": 0.01,
        "learn.lifetime": 100,
        "learn.mirrored": False,
        "learn.preprocessing": "standardise",
        "learn.start": "random",
        "evaluate.protocol": "idc",
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
_IMAGENETS = ("imagenet", "imagenet100", "imagenette", "imagewoof")
_GREY = ("mnist", "fashion_mnist", "digits")
# Rates of the images with IPC 10 at 32 px, 28 px and 224 px.
_RATES = {"imagenet100": 1e-3} | dict.fromkeys(_GREY, 1e-4)
_SIDES = {"mnist": 28}


def settings(data):
    """By data set; the images' rate grows with the images per class and the area."""
    large = data.name in _IMAGENETS or data.is_large
    depth = 3 if data.image_size <= 32 else 4 if data.image_size <= 64 else 5
    factor = 3 if large else 2
    base = _RATES.get(data.name, 3e-3 if large else 5e-3)
    side = 224 if large else _SIDES.get(data.name, 32)
    # Batches of 64 real images, until 2,000 are seen for CIFAR and 500 for others.
    of_networks = 32 if data.name in ("cifar10", "cifar100") else 8
    by_data = {
        "learn.model": f"dc_conv{depth}",
        "learn.steps": 50_000 if large else 200_000,
        "learn.image_rate": base * ((data.ipc or 10) / 10) * (data.image_size / side) ** 2,
        "learn.network_steps": of_networks,
        "learn.augment": "idc-color_crop" if data.name == "mnist" else "idc-color_crop_cutout",
        "learn.factor": factor,
        "evaluate.students": (f"dc_conv{depth}",),
    }
    if data.name == "mnist":
        by_data["relabel.mix"] = "none"
    known = data.name in ("cifar10", "mnist", "fashion_mnist")
    said = published(CODE, by_data) if known else ours(by_data, "as for images of this size")
    return METHOD | said | SETS | (small(data, by_data["learn.image_rate"]) if data.small else {})


def small(data, rate):
    """For minutes of two CPU cores: larger steps, where few are taken.

    Parts of 4 px would show nothing.

    Args:
      data: as `settings` was given.
      rate: of the images, as published.
    """
    tiny = data.image_size < 16
    settings = {
        "learn.steps": 1000 if tiny else 500,
        "learn.width": 32 if tiny else 16,
        "learn.image_rate": rate * (10 if tiny else 3),
    }
    return ours(settings | ({"learn.factor": 1} if tiny else {}), "minutes of two CPU cores")
