"""The score of a set while it is learned, under the protocol that will score it in the end."""

from pathlib import Path

from delt_jax.data import Source
from delt_jax.evaluation import rows
from delt_jax.evaluation.rows import EvalRow
from delt_jax.evaluation.training_sets import labelled_images
from delt_jax.formats.distilled import DistilledSet
from delt_jax.recipe import Recipe
from delt_jax.training import learned_score
from delt_jax.training.learned_score import Exam
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
    e = recipe.evaluate
    regime = "learned" if "learned" in e.regimes else "hard"
    row = EvalRow(e.students[0], regime, "recovered", content.ipc, content.copies)
    rate = e.learning_rates[0] if e.learning_rates else None
    protocol = rows.resolve(recipe, source, row, rate)
    assert content.preprocessing is not None
    exam = Exam(
        rows.student_spec(recipe, row.student, source),
        protocol,
        content.preprocessing,
        source.test,
        regime,
        recipe.seed,
    )
    images = labelled_images(content, protocol.loss, regime == "learned")
    return float(learned_score.accuracies(exam, images, Saving(partial, 60 * e.save_minutes))[0])
