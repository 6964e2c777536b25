"""ATT (arXiv 2407.14245): MTT whose students stop where they are nearest to the expert."""

from delt_jax.config.methods import ours, published, sibling

SMALL = "minutes of two CPU cores"
CODE = "NiaLiu/ATT @eec3176"
ROWS = f"{CODE}, commands of the README"
# By data and images per class: most student steps, expert epochs, latest start, batch, rates of
# images and of the student's rate, where that starts, steps of the images, and decay of their
# average.
TABLES = {
    "cifar10": {
        1: (80, 4, 2, 0, 1e2, 1e-7, 0.01, 6000, 0.9999),
        10: (30, 2, 20, 0, 1e4, 1e-4, 0.01, 60_000, 0.9999),
        50: (50, 2, 40, 0, 1e2, 1e-5, 0.001, 1_000_000, 0.999),
    },
    "cifar100": {
        1: (50, 4, 20, 0, 500.0, 1e-5, 0.01, 3000, 0.9995),
        10: (20, 2, 40, 0, 1e3, 1e-5, 0.01, 200_000, 0.9995),
        50: (80, 2, 40, 1200, 1e3, 1e-5, 0.01, 100_000, 0.999),
    },
    # Commented out there; the README's table has other rates of the student's rate, and starts, for
    # 10 images.
    "tiny_imagenet": {
        1: (30, 2, 10, 0, 1e4, 1e-4, 0.01, 10_000, 0.999),
        10: (20, 2, 40, 0, 1e4, 1e-6, 0.001, 80_000, 0.999),
    },
}
# Without whitening.
PLAIN = {("cifar10", 50), ("cifar100", 10), ("tiny_imagenet", 1), ("tiny_imagenet", 10)}


def settings(data):
    """MTT's, with its own rows."""
    base = sibling(__file__, "mtt", data)
    table, ipc = TABLES.get(data.name, TABLES["cifar10"]), data.ipc or 10
    nearest = min(table, key=lambda known: abs(known - ipc))
    most, epochs, last, batch, image_rate, rate_rate, rate, steps, decay = table[nearest]
    few = ()
    if data.small:
        few = base["learn.options"].value[6:]  # what makes MTT small
        steps = base["learn.steps"].value
        image_rate = min(image_rate, base["learn.image_rate"].value)
        decay = round(1 - 10 / steps, 4)  # over a tenth of them: published ones are for thousands
        if data.image_size < 16 and ipc > 1:  # MTT's own, which leave random images further behind
            few += ("rate_rate=1e-05", "student_rate=0.001")
    options = (
        *("expert_batch=512", f"student_steps={most}", f"expert_epochs={epochs}"),
        f"last_start={last}",
        *(f"student_batch={batch}", f"rate_rate={rate_rate}", f"student_rate={rate}"),
        *(f"average_decay={decay}", *few),
    )
    by_row = {"learn.image_rate": image_rate, "learn.options": options, "learn.steps": steps}
    if (data.name, nearest) in PLAIN:
        by_row["learn.preprocessing"] = "standardise"
    is_known = data.name in TABLES and nearest == ipc and not data.small
    why = SMALL if data.small else f"as with {nearest} per class"
    of_row = published(ROWS, by_row) if is_known else ours(by_row, why)
    return base | of_row | published(CODE, {"learn.method": "att"})
