"""ATT (arXiv 2407.14245): MTT whose students stop where they are nearest to the expert."""

from delt_jax.config.methods import ours, published, sibling

CODE = "NiaLiu/ATT @eec3176"
# By data and images per class: most student steps, expert epochs, latest start, batch, rates of
# images and of the student's rate, where that starts, and steps of the images.
TABLES = {
    "cifar10": {
        1: (80, 4, 2, 0, 1e2, 1e-7, 0.01, 6000),
        10: (30, 2, 20, 0, 1e4, 1e-4, 0.01, 60_000),
        50: (50, 2, 40, 0, 1e2, 1e-5, 0.001, 60_000),
    },
    "cifar100": {
        1: (50, 4, 20, 0, 500.0, 1e-5, 0.01, 3000),
        10: (20, 2, 40, 0, 1e3, 1e-5, 0.01, 10_000),
        50: (80, 2, 40, 1200, 1e3, 1e-5, 0.01, 10_000),
    },
}
PLAIN = {("cifar10", 50), ("cifar100", 10)}  # without whitening


def settings(data):
    """MTT's, with its own rows; lengths of the longer runs are not published, so they are ours."""
    base = sibling(__file__, "mtt", data)
    table, ipc = TABLES.get(data.name, TABLES["cifar10"]), data.ipc or 10
    nearest = min(table, key=lambda known: abs(known - ipc))
    most, epochs, last, batch, image_rate, rate_rate, rate, steps = table[nearest]
    options = (
        *(f"student_steps={most}", f"expert_epochs={epochs}", f"last_start={last}"),
        *(f"student_batch={batch}", f"rate_rate={rate_rate}", f"student_rate={rate}"),
    )
    if data.small:
        options, steps = (*options, *base["learn.options"].value[6:]), base["learn.steps"].value
        image_rate = min(image_rate, base["learn.image_rate"].value)
    by_row = {"learn.image_rate": image_rate, "learn.options": options, "learn.steps": steps}
    if (data.name, nearest) in PLAIN:
        by_row["learn.preprocessing"] = "standardise"
    is_known = data.name in TABLES and nearest == ipc
    of_row = published(CODE, by_row) if is_known else ours(by_row, f"as with {nearest} per class")
    return base | of_row | published(CODE, {"learn.method": "att"})
