"""TESLA (arXiv 2211.10586): MTT by an estimate of its gradient that needs little memory."""

from delt_jax.config.methods import ours, published, sibling

CODE = "justincui03/tesla @488842e"
HALF = f"{CODE}, README: half its 1000, as its gradient lacks a factor of 2"
# By data and images per class: student steps, expert epochs, latest start, batch, rates of images
# and of the student's rate, and where that starts.
# Its command for CIFAR-10 leaves out the whitening that the one for the experts has; here both do.
TABLES = {
    "cifar10": {1: (50, 2, 5, 0, 500.0, 1e-7, 0.01)},
    "cifar100": {50: (80, 2, 40, 125, 500.0, 1e-5, 0.01)},
}


def settings(data):
    """Its own where they are published, else MTT's, which were chosen for another gradient."""
    base = sibling(__file__, "mtt", data)
    said = published(CODE, {"learn.method": "tesla"})
    if data.small:
        return base | said
    said |= published(CODE, {"learn.steps": 10_000})
    row = TABLES.get(data.name, {}).get(data.ipc or 10)
    if row is None:
        names = ("learn.image_rate", "learn.options")
        why = f"as MTT: {base['learn.options'].source}"
        return base | said | ours({name: base[name].value for name in names}, why)
    steps, epochs, last, batch, image_rate, rate_rate, rate = row
    options = (
        *(f"student_steps={steps}", f"expert_epochs={epochs}", f"last_start={last}"),
        *(f"student_batch={batch}", f"rate_rate={rate_rate}", f"student_rate={rate}"),
    )
    said |= published(f"{CODE}, README", {"learn.options": options})
    return base | said | published(HALF, {"learn.image_rate": image_rate})
