"""MTT (arXiv 2203.11932): students end where experts' trainings end.

A set that is learned without a teacher, from stored trainings: see docs/learned.md. The tables of
FTD, whose settings for MTT's loss are published whole, stand for MTT's own, too.
"""

from delt_jax.config.methods import ours, published

CODE = "GeorgeCazenavette/mtt-distillation, distill.py and buffer.py"
TABLE = "AngusDujw/FTD-distillation, README"
METHOD = published(
    CODE,
    {
        "synthesis": "learn",
        "learn.method": "mtt",
        "learn.width": 0,
        "learn.steps": 5000,
        "learn.label_rate": 0.0,
        "learn.network_rate": 0.0,
        "learn.network_steps": 0,
        "learn.lifetime": 1,
        "learn.augment": "one-color_crop_cutout_flip_scale_rotate",
        "learn.factor": 1,
        "learn.mirrored": False,
        "learn.start": "random",
        "evaluate.protocol": "mtt",
        "evaluate.regimes": ("hard",),
    },
) | ours({"learn.real_batch": 1}, "no real images are asked")
# By data and images per class: student steps, expert epochs, latest start, batch, rates of images
# and of the student's rate, and where that starts.
TABLES = {
    "cifar10": {
        1: (50, 2, 2, 0, 100.0, 1e-7, 0.01),
        10: (30, 2, 20, 0, 100.0, 1e-5, 0.001),
        50: (30, 2, 40, 0, 1000.0, 1e-5, 0.01),
    },
    "cifar100": {
        1: (40, 3, 20, 0, 1000.0, 1e-5, 0.01),
        10: (20, 2, 40, 0, 1000.0, 1e-5, 0.01),
        50: (80, 2, 40, 1000, 1000.0, 1e-5, 0.01),
    },
    "tiny_imagenet": {
        1: (30, 2, 10, 0, 10000.0, 1e-4, 0.01),
        10: (20, 2, 40, 500, 10000.0, 1e-4, 0.01),
    },
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
SMALL = "minutes of two CPU cores"


def options(row, more=()):
    """The row of a table as numbers of the method."""
    steps, epochs, last, batch, _, rate_rate, rate = row
    return (
        f"student_steps={steps}",
        f"expert_epochs={epochs}",
        f"last_start={last}",
        f"student_batch={batch}",
        f"rate_rate={rate_rate}",
        f"student_rate={rate}",
        *more,
    )


def settings(data):
    """By data and images per class; other data take the row of CIFAR-10 nearest to theirs."""
    depth = 3 if data.image_size <= 32 else 4 if data.image_size <= 64 else 5
    table, ipc = TABLES.get(data.name, TABLES["cifar10"]), data.ipc or 10
    nearest = min(table, key=lambda known: abs(known - ipc))
    row = table[nearest]
    by_row = {"learn.image_rate": row[4], "learn.options": options(row)}
    is_known = data.name in TABLES and nearest == ipc
    of_row = published(TABLE, by_row) if is_known else ours(by_row, f"as with {nearest} per class")
    by_data = {
        "learn.model": f"dc_conv{depth}",
        "evaluate.students": (f"dc_conv{depth}",),
        "learn.preprocessing": "standardise" if data.channels == 1 else "kornia",
    }
    said = published(TABLE, by_data) if data.name in TABLES else ours(by_data, "as for CIFAR-10")
    return METHOD | of_row | said | SETS | (small(data, by_row) if data.small else {})


def is_easy(data):
    """Whether random images teach nearly all that there is: ten of a class of 8 px."""
    return data.image_size < 16 and (data.ipc or 10) > 1


def factor(data):
    """Of rates in few steps, chosen on validation images."""
    if data.image_size < 16:
        return 1 if is_easy(data) else 10
    return 0.3


def small(data, by_row):
    """For minutes of two CPU cores: few experts of few epochs, and short walks.

    Args:
      data: as `settings` was given.
      by_row: rate and options; of a number that is given twice the later counts.
    """
    tiny = data.image_size < 16
    few = ("experts=5", "epochs=20") if tiny else ("experts=3", "epochs=8")
    # Where ten images are nearly as good as all, experts must be better than students of ten.
    if is_easy(data):
        few += ("expert_rate=0.1", "expert_batch=32", "student_steps=40", "first_start=1")
        last = 12
    elif tiny:
        few += ("expert_rate=0.05", "expert_batch=128", "student_steps=20")
        last = 10
    else:  # a student must be able to go where an expert goes: more and larger steps, to one epoch
        few += ("expert_rate=0.05", "expert_batch=128", "expert_epochs=1")
        few += ("student_steps=40", "student_rate=0.05")
        last = 2
    settings = {
        "learn.width": 32 if tiny else 16,
        "learn.steps": 300 if tiny else 200,
        "learn.options": (*by_row["learn.options"], *few, "student_batch=50", f"last_start={last}"),
        "learn.image_rate": by_row["learn.image_rate"] * factor(data),
    }
    return ours(settings, SMALL)
