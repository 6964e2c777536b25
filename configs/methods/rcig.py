"""RCIG (arXiv 2302.06755): implicit gradients through a linearised network's exact solution.

A set that is learned without a teacher: see docs/learned.md.
"""

from delt_jax.config.methods import ours, published

CODE = "yolky/RCIG @a9fb1fa, configs_final"
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
STEPS = {("cifar10", 1): 15_000, ("cifar10", 10): 10_000, ("cifar100", 1): 10_000}
SETS = ours(
    {
        "evaluate.images": ("recovered", "random"),
        "evaluate.learning_rates": (),
        "evaluate.epochs": None,
        "evaluate.eval_every": None,
    },
    "beside as many real images",
)
GREY = ("mnist", "fashion_mnist")


def settings(data):
    """By depth of the network, colour, and images per class."""
    depth = 3 if data.image_size <= 32 else 4 if data.image_size <= 64 else 5
    colour, ipc = data.channels != 1, data.ipc or 10
    activation = "_softplus" if depth == 3 else ""
    by_data = {
        "learn.model": f"conv{depth}_wide{activation}",
        "learn.preprocessing": "zca" if colour else "standardise",
        "learn.mirrored": colour,
        "learn.options": (f"ridge={0.05 if depth == 5 else 5e-4}",),
        "evaluate.students": (f"conv{depth}_wide",),
    }
    is_known = (data.name, ipc) in STEPS
    steps = {"learn.steps": STEPS.get((data.name, ipc), 10_000)}
    known = data.name in (*GREY, "cifar10", "cifar100", "tiny_imagenet")
    return (
        METHOD
        | (published(CODE, by_data) if known else ours(by_data, "as for images of this size"))
        | (published(CODE, steps) if is_known else ours(steps, "the code's default"))
        | SETS
        | (small(data, by_data["learn.options"]) if data.small else {})
    )


def small(data, options):
    """For minutes of two CPU cores: fewer products of each solution.

    Args:
      data: as `settings` was given.
      options: those of the network.
    """
    tiny = data.image_size < 16
    settings = {
        "learn.width": 32 if tiny else 16,
        "learn.steps": 500 if tiny else 200,
        "learn.real_batch": 256,
        "learn.options": (*options, "solver_steps=10"),
    }
    return ours(settings, "minutes of two CPU cores")
