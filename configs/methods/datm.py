"""DATM (arXiv 2310.05773): MTT with starts as hard as the set is large, and learned labels."""

from delt_jax.config.methods import ours, published, sibling

SMALL = "minutes of two CPU cores"
CODE = "NUS-HPC-AI-Lab/DATM @97ae510"
# By data and images per class: first start, latest start at first and in the end, and when that
# is, student steps, expert epochs, batch, rates of images, of the student's rate and of labels, and
# the largest loss of a step that counts.
TABLES = {
    "cifar10": {
        1: (0, 4, 4, 0, 80, 2, 1000, 100.0, 1e-7, 5.0, 1.1),
        10: (0, 10, 20, 1000, 80, 2, 1000, 100.0, 1e-5, 2.0, 1),
        50: (0, 20, 40, 2000, 80, 2, 1000, 1000.0, 1e-5, 2.0, 1),
        500: (40, 60, 60, 0, 40, 2, 1000, 50.0, 1e-5, 10.0, 1),
        1000: (40, 60, 60, 0, 100, 2, 1000, 50.0, 1e-5, 10.0, 1),
    },
    "cifar100": {
        1: (0, 10, 20, 1000, 40, 3, 1000, 1000.0, 1e-5, 10.0, 1),
        10: (0, 30, 50, 2000, 80, 2, 1000, 1000.0, 1e-5, 10.0, 1),
        50: (20, 70, 70, 0, 80, 2, 1000, 1000.0, 1e-5, 10.0, 1),
        100: (30, 70, 70, 0, 80, 2, 1000, 50.0, 1e-5, 10.0, 1),
    },
    "tiny_imagenet": {
        1: (0, 15, 20, 2000, 40, 2, 1000, 10000.0, 1e-4, 10.0, 1),
        10: (10, 50, 50, 0, 40, 2, 500, 100.0, 1e-4, 10.0, 1),
        50: (40, 70, 70, 0, 20, 2, 1000, 100.0, 1e-4, 10.0, 1),
    },
}


def settings(data):
    """MTT's, with starts and rates by data and images per class."""
    base = sibling(__file__, "mtt", data)
    table, ipc = TABLES.get(data.name, TABLES["cifar10"]), data.ipc or 10
    nearest = min(table, key=lambda known: abs(known - ipc))
    first, last, grown, at, steps, epochs, batch, *rates, largest = table[nearest]
    image_rate, rate_rate, label_rate = rates
    options = (
        *("experts=100", "epochs=100", "radius=0.01", "surrogate=0.3", "student_rate=0.01"),
        *(f"first_start={first}", f"last_start={last}", f"grown_last_start={grown}"),
        *(f"grown_at={at}", f"student_steps={steps}", f"expert_epochs={epochs}"),
        *(f"student_batch={batch}", f"rate_rate={rate_rate}", f"largest_loss={largest}"),
    )
    is_tiny = data.image_size < 16
    is_easy = is_tiny and ipc > 1  # as in mtt.py
    if data.small:
        latest = 15 if is_easy else 10 if is_tiny else 4
        few = (f"first_start={int(is_easy)}", f"grown_last_start={latest}", "grown_at=150")
        options = (*options, *base["learn.options"].value[6:], *few)
    by_row = {
        "learn.image_rate": image_rate,
        "learn.label_rate": label_rate,
        "learn.options": options,
        "learn.steps": 10_000,
    }
    is_known = data.name in TABLES and nearest == ipc and not data.small
    why = SMALL if data.small else f"as with {nearest} per class"
    of_row = published(CODE, by_row) if is_known else ours(by_row, why)
    # Chosen on validation images.
    of_images, of_labels = (1, 1) if is_easy else (10, 10) if is_tiny else (0.3, 1)
    few = ours(
        {
            "learn.steps": base["learn.steps"].value,
            "learn.image_rate": image_rate * of_images,
            "learn.label_rate": label_rate * of_labels,
        },
        SMALL,
    )
    said = {"learn.method": "datm", "evaluate.regimes": ("learned",)}
    return base | of_row | published(CODE, said) | (few if data.small else {})
