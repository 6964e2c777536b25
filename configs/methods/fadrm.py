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


def students(batch_size, epochs, more):
    """How they train at IPC 10; at IPC 1 and 50 the schedule may be the other one."""
    same = {"evaluate.batch_size": batch_size, "evaluate.epochs": epochs}
    return published(
        "Jiacheng8/FADRM, relabel/scripts and validate/train_fkd.py, IPC 10", same | more
    ) | ours({"evaluate.protocol": "sre2l"}, "with its views and loss")


HALF = {"evaluate.schedule": "half_cosine"}
LOW = {"evaluate.schedule": "cosine", "evaluate.learning_rates": (0.0005,)}


def settings(data):
    """By data set; other images keep the recipe's steps and crops."""
    return METHOD | for_data(
        data,
        {
            "imagenet": recovery("imagenet1k", 4, 0.25, 32) | students(16, 300, HALF),
            "imagenette": recovery("imagenet-nette", 4, 0.05, 32) | students(10, 300, LOW),
            "imagewoof": recovery("imagewoof", 4, 0.25, 32) | students(10, 300, LOW),
            "tiny_imagenet": recovery("tiny_imagenet", 2, 0.01, 4) | students(16, 300, HALF),
            "cifar100": recovery("cifar100", 4, 0.25, 4) | students(16, 1000, HALF),
            "": SHIFT | ours({"recover.residual_rounds": 4}, "as for ImageNet-1K"),
        },
    )
