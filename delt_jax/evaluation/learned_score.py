"""The score of a set while it is learned, under the protocol that will score it in the end."""

from pathlib import Path
from typing import Any

from delt_jax import models
from delt_jax.data import Source
from delt_jax.evaluation import rows
from delt_jax.evaluation.rows import EvalRow
from delt_jax.evaluation.training_sets import labelled_images
from delt_jax.formats.distilled import DistilledSet
from delt_jax.models import ModelSpec
from delt_jax.recipe import Recipe
from delt_jax.store.identity import versions
from delt_jax.training import learned_score, student_program
from delt_jax.training.learned_score import Exam
from delt_jax.training.protocols import Protocol
from delt_jax.training.student_loop import Saving


def accuracy(recipe: Recipe, source: Source, content: DistilledSet, partial: Path) -> float:
    """Trains the first student of a run on a set of float images, and tests it.

    Args:
      recipe: says which student, protocol, first learning rate, and kind of labels: "learned" where
        the run has that regime, else "hard".
      source: on whose test images it is scored; where sets are chosen by it these are validation
        images.
      content: the set.
      partial: existing folder for the unfinished student.

    Returns:
      Accuracy in [0, 1] after the last epoch.

    Raises:
      UserError: if the protocol cannot train on float images or on these labels.
      Stopped: after a signal, once the student is saved.
    """
    spec, protocol, regime = _asked(recipe, source, content.ipc, content.copies)
    assert content.preprocessing is not None
    exam = Exam(spec, protocol, content.preprocessing, source.test, regime, recipe.seed)
    images = labelled_images(content, protocol.loss, regime == "learned")
    saving = Saving(partial, 60 * recipe.evaluate.save_minutes)
    return float(learned_score.accuracies(exam, images, saving)[0])


def inputs(recipe: Recipe, source: Source, copies: int) -> dict[str, Any]:
    """What `accuracy` depends on besides set, data and seed, by name.

    Args:
      recipe: as for `accuracy`.
      source: the data.
      copies: images to train on that each stored one becomes.
    """
    spec, protocol, regime = _asked(recipe, source, recipe.ipc, copies)
    # Tests on the way change no student, and what was changed is in the values.
    no_matter = ("eval_every", "changed")
    values = {k: v for k, v in protocol.as_dict().items() if k not in no_matter}
    parts = {f"model.{spec.name}": models.version(spec.name)}
    return versions(parts | student_program.parts(protocol, regime)) | {
        "validation.student": spec.as_dict(),
        "validation.regime": regime,
        # Where none is asked for, a set may bring a rate that it has learned.
        "validation.rate_asked": recipe.evaluate.learning_rates[:1],
        **{f"validation.{name}": value for name, value in values.items()},
    }


def _asked(
    recipe: Recipe, source: Source, ipc: int, copies: int
) -> tuple[ModelSpec, Protocol, str]:
    """The student, how it trains, and on which kind of labels."""
    e = recipe.evaluate
    regime = "learned" if "learned" in e.regimes else "hard"
    row = EvalRow(e.students[0], regime, "recovered", ipc, copies)
    rate = e.learning_rates[0] if e.learning_rates else None
    protocol = rows.resolve(recipe, source, row, rate)
    return rows.student_spec(recipe, row.student, source), protocol, regime
