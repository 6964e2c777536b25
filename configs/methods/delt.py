"""DELT (arXiv 2411.19946), what every recipe is without a method: EarlyLate from real images.

All that is not published for a data set is the recipe's.
"""

from delt_jax.config.methods import for_data, published

METHOD = published(
    "arXiv 2411.19946",
    {
        "select.start": "real",
        "select.rule": "medium",
        "recover.layout": "class_major",
        "recover.clock": "batch",
        "recover.curriculum": "cosine",
        "recover.milestone": 1.0,
        "recover.jitter": 0,
    },
)
SCRIPT = "VILA-Lab/DELT, scripts/resnet18_imagenet1k_synthesis.sh"
IMAGENET = published(
    SCRIPT,
    {
        "recover.iterations": 4000,
        "recover.learning_rate": 0.25,
        "recover.bn_weight": 0.01,
        "recover.batch_size": 100,
        "recover.min_scale": 0.08,
    },
)
STUDENTS = published("VILA-Lab/DELT, evaluation/argument.py", {"evaluate.protocol": "delt"})
EVALUATED_ON = ("imagenet100", "imagenette", "imagewoof", "tiny_imagenet", "cifar10", "cifar100")


def settings(data):
    """By data set; the released scripts recover ImageNet-1K alone, and evaluate on more."""
    rounds = published(SCRIPT, {"recover.round_iterations": 0 if data.ipc == 1 else 500})
    by_name = {"imagenet": IMAGENET | rounds | STUDENTS} | dict.fromkeys(EVALUATED_ON, STUDENTS)
    return METHOD | (for_data(data, by_name) if data.name in by_name else {})
