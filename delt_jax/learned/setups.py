"""From a recipe to what is static in the learning of a set, and to the experts that it asks."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from delt_jax.augment import dsa
from delt_jax.core.preprocessing import Preprocessing
from delt_jax.core.spelling import nearest
from delt_jax.data import Normalisation, Source, hold_out, measure_normalisation, whitening
from delt_jax.data.source import split_mask
from delt_jax.errors import UserError
from delt_jax.learned import experts, methods, networks
from delt_jax.learned.expert_store import DELTAS, FLOAT32, ExpertStore
from delt_jax.learned.experts import ExpertPlan
from delt_jax.learned.method import Method, Setup
from delt_jax.models import ModelSpec
from delt_jax.recipe import Recipe

OWN_SHARE = 0.1  # of the training images, held out where nothing else is there to validate on
EXPERTS = "experts/manifest.json"  # of finished experts, below the work directory


def setup_of(recipe: Recipe, source: Source, normalisation: Normalisation | None = None) -> Setup:
    """What is static in the learning of a set.

    Args:
      recipe: complete (see `delt_jax.config.derive`).
      source: the data, perhaps only described.
      normalisation: of the images; without it, for plans, black is 0 and white 1.

    Raises:
      UserError: if learn.options has a name that the method does not know, no number, or one that
        the method cannot work with.
    """
    learn = dataclasses.asdict(recipe.learn)
    method = methods.find(recipe.learn.method)
    low, high = normalisation.bounds() if normalisation else (0.0, 1.0)
    same = {f.name for f in dataclasses.fields(Setup)} & learn.keys()
    size, channels = source.image_size, source.channels
    num_classes, augment = len(source.class_names), learn["augment"]
    given = {name: learn[name] for name in same} | {
        "augment": _strategy(augment, recipe.data.flip),
        "mirrored": learn["mirrored"] and recipe.data.flip,
        "options": options_of(method, recipe.learn.options or ()),
    }
    setup = Setup(
        spec=ModelSpec(learn["model"], num_classes, size, channels, learn["width"]),
        num_classes=num_classes,
        ipc=recipe.ipc,
        more_real=learn["real_batch"] * learn["network_steps"] if method.trains_on_real else 0,
        low=tuple(float(v) for v in np.broadcast_to(low, channels)),
        high=tuple(float(v) for v in np.broadcast_to(high, channels)),
        **given,
    )
    wrong = method.refuse(setup)
    if wrong:
        raise UserError(f"{method.name} cannot learn so: {wrong}.")
    return setup


def _strategy(written: str, flip: bool) -> str:
    """A strategy of DSA without flips where data have none; empty where nothing is left of it."""
    parsed = dsa.parse(written, flip) if written else None
    return str(parsed) if parsed and parsed.operations else ""


def learned_from(recipe: Recipe, source: Source) -> Source:
    """The data with the images that sets are validated on in place of the test images.

    These are the run's own where it has data.validation_share, else a share of the training images
    that is held out here, from experts, too. Where nothing is validated, the data are as they are.

    Raises:
      UserError: if a class has no two training images.
    """
    if not holds_out(recipe):
        return source
    return hold_out(source, OWN_SHARE, recipe.data.split_seed, "learn.validate_every")


def classes_learned_from(recipe: Recipe, source: Source) -> np.ndarray:
    """Classes of the training images of `learned_from`, int [N], also of data only described."""
    labels = np.asarray(source.train.labels)
    if not holds_out(recipe) or not len(labels):
        return labels
    return labels[~split_mask(labels, OWN_SHARE, recipe.data.split_seed)]


def holds_out(recipe: Recipe) -> bool:
    """Whether sets are validated on images that are not the run's own validation images."""
    return bool(recipe.learn.validate_every and not recipe.data.validation_share)


def options_of(method: Method, entries: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """All further numbers of a method: its own, with those of `learn.options` in their place.

    Raises:
      UserError: for a name that it does not have, or what is no number.
    """
    found = dict(method.options)
    for entry in entries:
        name, _, written = entry.partition("=")
        if name not in found:
            known = ", ".join(found) or "none"
            raise UserError(
                f"learn.options has {entry!r}, but {method.name} has no number {name!r}"
                f"{nearest(name, list(found))} It has: {known}."
            )
        try:
            found[name] = float(written)
        except ValueError:
            found[name] = math.nan
        if not math.isfinite(found[name]):
            raise UserError(f"learn.options has {entry!r}; write a number behind {name}=.")
    return tuple(found.items())


def preprocessing_of(recipe: Recipe, source: Source) -> Preprocessing:
    """The space that images are learned in."""
    kind = recipe.learn.preprocessing
    assert kind is not None  # derived
    return whitening.fit(kind, source, measure_normalisation(recipe.data, source))


def expert_plan(recipe: Recipe, setup: Setup) -> ExpertPlan:
    """How the experts of a run are trained."""
    return ExpertPlan(
        setup.spec,
        int(setup.option("epochs")),
        int(setup.option("expert_batch")),
        setup.option("expert_rate"),
        setup.augment,
        setup.option("radius"),
        setup.option("surrogate"),
        recipe.seed,
    )


def expert_store(
    recipe: Recipe, source: Source, workdir: Path, folder: str = "experts"
) -> ExpertStore:
    """The experts of a work directory.

    Args:
      recipe: complete.
      source: the data.
      workdir: the work directory.
      folder: below it, finished experts or unfinished ones.
    """
    setup = setup_of(recipe, source)
    form = DELTAS if setup.option("float16") else FLOAT32
    return ExpertStore(workdir / folder, form, experts.start(expert_plan(recipe, setup), 0))


def expert_logits(
    store: ExpertStore, setup: Setup, images: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Mean logits of the experts that are right about an image, of all where none is (DATM).

    Args:
      store: finished experts.
      setup: of the run.
      images: float32 [N, S, S, C], in the space of the preprocessing.
      classes: int [N].

    Returns:
      float32 [N, classes].
    """
    ask = jax.jit(lambda params: networks.logits(setup.spec, params, images))
    last = int(setup.option("epochs"))
    experts = range(int(setup.option("experts")))
    found = np.stack([np.asarray(ask(store.read(expert, last))) for expert in experts])
    is_right = (found.argmax(-1) == classes).astype(np.float32)
    weights = np.where(is_right.sum(0) > 0, is_right, 1)
    return (found * weights[..., None]).sum(0) / weights.sum(0)[:, None]
