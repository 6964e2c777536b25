"""FTD (arXiv 2211.11004): MTT on experts of flat minima, whose images are averaged."""

from dataclasses import replace

from delt_jax.config.methods import published, sibling

CODE = "AngusDujw/FTD-distillation"
# By data and images per class: weight of flatness, and decay of the average. They stand in the
# table that MTT's rows are from, so they have the origin of these.
TABLES = {
    "cifar10": {1: (0.3, 0.9999), 10: (0.3, 0.9995), 50: (1, 0.999)},
    "cifar100": {1: (1, 0.9995), 10: (1, 0.9995), 50: (1, 0.999)},
    "tiny_imagenet": {1: (1, 0.999), 10: (1, 0.999)},
}


def settings(data):
    """MTT's, with GSAM's radius and its weight, and the average's decay."""
    base = sibling(__file__, "mtt", data)
    table, ipc = TABLES.get(data.name, TABLES["cifar10"]), data.ipc or 10
    surrogate, decay = table[min(table, key=lambda known: abs(known - ipc))]
    if data.small:  # over a tenth of the steps: published ones are for thousands
        decay = round(1 - 10 / base["learn.steps"].value, 4)
    options = (
        *base["learn.options"].value,
        *("radius=0.01", f"surrogate={surrogate}", f"average_decay={decay}"),
    )
    changed = {"learn.options": replace(base["learn.options"], value=options)}
    return base | changed | published(CODE, {"learn.method": "ftd"})
