"""Labels that came with a set, as the loss of its students takes them."""

import numpy as np
from scipy.special import softmax

from delt_jax.core import losses
from delt_jax.errors import UserError

_TOLERANCE = 1e-3  # of sums of probabilities


def check(form: str | None, as_values: bool) -> None:
    """Raises a UserError if labels of a form are none of a loss; takes what `targets` takes."""
    if form == "centred" and not as_values:
        raise UserError(
            "The set's learned labels are values for a squared error, as FRePo has them, and no "
            'probabilities; set evaluate.protocol to "frepo" or evaluate.loss to "squared", or '
            'take the regime "hard".'
        )


def targets(labels: np.ndarray, form: str, as_values: bool) -> np.ndarray:
    """What students learn of labels in the regime "learned".

    Args:
      labels: float32 [N, classes].
      form: what they are, one of `delt_jax.formats.learned_arrays.FORMS`.
      as_values: whether the loss takes label values, rather than probabilities.

    Returns:
      float32 [N, classes]. Values that were learned for a squared error stay bit for bit.

    Raises:
      UserError: if they are values and the loss takes probabilities, or are no probabilities.
    """
    labels = np.asarray(labels, np.float32)
    check(form, as_values)
    if form == "centred":
        return labels
    if form == "weights" and labels.min() >= 0 and not as_values:
        return labels
    probabilities = softmax(labels, axis=1) if form == "logits" else labels
    if probabilities.min() < 0 or np.abs(probabilities.sum(1) - 1).max() > _TOLERANCE:
        raise UserError(
            f"The set's learned labels are called {form}, but they are no probabilities, which are "
            f"positive and sum to 1."
        )
    return np.asarray(losses.label_values(probabilities)) if as_values else probabilities


def of_classes(classes: np.ndarray, num_classes: int, as_values: bool) -> np.ndarray:
    """The labels of real images beside a set with learned ones, float32 [N, classes].

    Args:
      classes: int [N].
      num_classes: of the data.
      as_values: as of `targets`.
    """
    return targets(np.eye(num_classes, dtype=np.float32)[classes], "one_hot", as_values)
