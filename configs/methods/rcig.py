"""RCIG (arXiv 2302.06755): implicit gradients through a linearised network's exact solution.

A set that is learned without a teacher: see docs/learned.md.
"""

from delt_jax.config.methods import ours, published

CODE = "yolky/RCIG @a9fb1fa, distill_dataset.py and configs_final"
METHOD = published(
    CODE,
    {
        "synthesis": "learn",
        "learn.method": "rcig",
        "learn.width": 0,
        "learn.real_batch": 1024,
        "learn.image_rate": 3e-3,
        "learn.label_rate": 3e-3,
        "learn.network_rate": 5e-5,
        "learn.network_steps": 1,
        "learn.augment": "",
        "learn.factor": 1,
        "learn.start": "random",
        "evaluate.protocol": "rcig",
        "evaluate.loss": "squared",
        "evaluate.regimes": ("learned",),
    },
) | ours({"learn.lifetime": 13}, "100 steps of a network, at 8 a turn")
# Of the sets that are released; other lengths are in the paper's appendix alone.
STEPS = {
    ("cifar10", 1): 15_000,
    ("cifar10", 10): 10_000,
    ("cifar100", 1): 10_000,
    ("tiny_imagenet", 1): 5_000,
}
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
# Data that the code has files for, at the side it has them at.
KNOWN = {
    **{"mnist": 28, "fashion_mnist": 28, "cifar10": 32, "cifar100": 32, "tiny_imagenet": 64},
    **{"imagenet": 64, "imagenette": 128, "imagewoof": 128},
}


def settings(data):
    """By depth of the network, colour, and images per class."""
    depth = 3 if data.image_size <= 32 else 4 if data.image_size <= 64 else 5
    colour, ipc = data.channels != 1, data.ipc or 10
    activation = "_softplus" if depth == 3 else ""
    by_data = {
        "learn.model": f"conv{depth}_wide{activation}",
        "learn.preprocessing": "zca" if colour else "standardise",
        "learn.mirrored": colour and not is_large_set(data.name, ipc, data.image_size),
        "learn.options": (f"ridge={0.05 if depth == 5 else 5e-4}",),
        "evaluate.students": (f"conv{depth}_wide",),
    }
    steps = {"learn.steps": STEPS.get((data.name, ipc), 10_000)}
    is_known = KNOWN.get(data.name) == data.image_size
    is_released = is_known and (data.name, ipc) in STEPS
    return (
        METHOD
        | (published(CODE, by_data) if is_known else ours(by_data, "as for images of this size"))
        | (published(CODE, steps) if is_released else ours(steps, "the code's default"))
        | SETS
        | (small(data) if data.small else {})
    )


def is_large_set(name, ipc, size):
    """Whether a colour set is too large for mirrored copies.

    cifar100_50.txt and depth_4_big.txt, which is for Tiny-ImageNet at 10 images per class and for
    ImageNet at 64 pixels, have none.
    """
    if name == "imagenet" and size <= 64:
        return True
    return ipc >= {"cifar100": 50, "tiny_imagenet": 10}.get(name, ipc + 1)


def small(data):
    """For minutes of two CPU cores: narrow networks and few steps, each solved as elsewhere."""
    tiny = data.image_size < 16
    settings = {
        "learn.width": 32 if tiny else 16,
        "learn.steps": 1000 if tiny and data.ipc == 1 else 200,
        "learn.real_batch": 256,
    }
    if not tiny:  # chosen on validation images
        settings |= {"learn.image_rate": 3e-2, "learn.label_rate": 3e-2}
    return ours(settings, "minutes of two CPU cores")
