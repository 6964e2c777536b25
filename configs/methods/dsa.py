"""DSA (arXiv 2102.08259): images whose gradients are those of real ones, under one augmentation.

A set that is learned without a teacher: see docs/learned.md.
"""

from delt_jax.config.methods import ours, published

CODE = "VICO-UoE/DatasetCondensation, main.py and utils.py"
METHOD = published(
    CODE,
    {
        "synthesis": "learn",
        "learn.method": "dsa",
        "learn.width": 0,
        "learn.real_batch": 256,
        "learn.image_rate": 0.1,
        "learn.label_rate": 0.0,
        "learn.network_rate": 0.01,
        "learn.augment": "one-color_crop_cutout_flip_scale_rotate",
        "learn.factor": 1,
        "learn.mirrored": False,
        "learn.preprocessing": "standardise",
        "learn.start": "random",
        "evaluate.protocol": "dsa",
        "evaluate.regimes": ("hard",),
    },
)
NETWORKS = 1000  # fresh ones, each for as many steps as it has outer loops
# By images per class: outer loops, and epochs of the network between two of them.
LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
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
    """By depth of the network, and loops by images per class."""
    depth = 3 if data.image_size <= 32 else 4 if data.image_size <= 64 else 5
    ipc = data.ipc or 10
    nearest = min(LOOPS, key=lambda known: abs(known - ipc))
    loops, epochs = LOOPS[nearest]
    networks = NETWORKS
    if data.small and loops > 1:
        networks, epochs = 50, 10
    looped = {
        "learn.lifetime": loops,
        "learn.network_steps": epochs,
        "learn.steps": networks * loops,
    }
    is_known = nearest == ipc and networks == NETWORKS
    why = f"loops as with {nearest} images per class, {networks} networks"
    by_data = {"learn.model": f"dc_conv{depth}", "evaluate.students": (f"dc_conv{depth}",)}
    return (
        METHOD
        | published(CODE, by_data)
        | (published(CODE, looped) if is_known else ours(looped, why))
        | SETS
        | (small(data) if data.small else {})
    )


def small(data):
    """For minutes of two CPU cores."""
    width = 32 if data.image_size < 16 else 16
    settings = {"learn.real_batch": 64, "learn.width": width}
    return ours(settings, "minutes of two CPU cores")
