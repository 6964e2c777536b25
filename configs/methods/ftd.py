"""FTD (arXiv 2211.11004): MTT on experts of flat minima, whose images are averaged."""

from delt_jax.config.methods import published, sibling

CODE = "AngusDujw/FTD-distillation"


def settings(data):
    """MTT's, with GSAM's radius and its weight by data."""
    base = sibling(__file__, "mtt", data)
    surrogate = 1 if data.name == "tiny_imagenet" else 0.3
    options = (*base["learn.options"].value, "radius=0.01", f"surrogate={surrogate}")
    changed = {"learn.method": "ftd", "learn.options": options}
    return base | published(CODE, changed)
