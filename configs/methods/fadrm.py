"""FADRM (arXiv 2506.24125): SRe2L from mosaics of real crops, which come back on the way."""

from delt_jax.config.methods import SHIFT, for_data, ours, published

METHOD = published(
    "arXiv 2506.24125",
    {
        "recover.layout": "one_per_class",
        "recover.round_iterations": 0,
        "recover.min_iterations": 0,
        "recover.milestone": 0.0,
        "recover.residual": 0.5,
    },
) | ours({"select.start": "rded"}, "its patches of medium difficulty come as files")


def recovery(script, blocks, learning_rate, shift):
    """Its settings in one of the released scripts; blocks are of 500 iterations."""
    return published(
        f"Jiacheng8/FADRM, recover/scripts/{script}/recover_fadrm_ipc50.sh",
        {
            "recover.iterations": 500 * blocks,
            "recover.residual_rounds": blocks,
            "recover.learning_rate": learning_rate,
            "recover.bn_weight": 0.01,
            "recover.batch_size": 100,
            "recover.min_scale": 0.08,
            "recover.jitter": shift,
        },
    )


# Where the cosine of the students' rate ends: at zero, or at half of where it begins.
ZERO, HALF = "cosine", "half_cosine"
# Rate and cosine of a ResNet-18 by data and images per class.
STUDENTS = {
    "imagenet": {1: (0.001, HALF), 10: (0.001, HALF), 50: (0.001, ZERO)},
    "imagenette": {1: (0.0005, HALF), 10: (0.0005, ZERO), 50: (0.0005, HALF)},
    "imagewoof": {1: (0.0005, HALF), 10: (0.0005, ZERO), 50: (0.001, HALF)},
    "tiny_imagenet": {1: (0.001, HALF), 10: (0.001, HALF), 50: (0.001, ZERO)},
    "cifar100": {1: (0.0005, HALF), 10: (0.001, HALF), 50: (0.001, ZERO)},
}
LONG = {("cifar100", 1), ("cifar100", 10), ("cifar100", 50), ("tiny_imagenet", 1)}  # 1000 epochs


def students(name, batch_size, data):
    """How they train on a data set, with the recipe's images per class or the nearest number."""
    by_ipc = STUDENTS[name]
    nearest = min(by_ipc, key=lambda known: abs(known - (data.ipc or 10)))
    rate, schedule = by_ipc[nearest]
    where = f"Jiacheng8/FADRM, relabel/scripts and validate/train_fkd.py, IPC {nearest}"
    settings = {
        "evaluate.batch_size": batch_size,
        "evaluate.epochs": 1000 if (name, nearest) in LONG else 300,
        "evaluate.schedule": schedule,
        "evaluate.learning_rates": (rate,),
    }
    is_known = data.ipc in (0, nearest)
    of_ipc = published(where, settings) if is_known else ours(settings, f"as with {nearest}")
    return of_ipc | ours({"evaluate.protocol": "sre2l"}, "with its views and loss")


def settings(data):
    """By data set; other images keep the recipe's steps and crops."""
    recoveries = {
        "imagenet": (recovery("imagenet1k", 4, 0.25, 32), 16),
        "imagenette": (recovery("imagenet-nette", 4, 0.05, 32), 10),
        "imagewoof": (recovery("imagewoof", 4, 0.25, 32), 10),
        "tiny_imagenet": (recovery("tiny_imagenet", 2, 0.01, 4), 16),
        "cifar100": (recovery("cifar100", 4, 0.25, 4), 16),
    }
    by_name = {
        name: of_recovery | students(name, batch_size, data)
        for name, (of_recovery, batch_size) in recoveries.items()
    }
    other = SHIFT | ours({"recover.residual_rounds": 4}, "as for ImageNet-1K")
    return METHOD | for_data(data, by_name | {"": other})
