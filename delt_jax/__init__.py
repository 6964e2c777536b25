"""DELT dataset distillation in JAX: squeeze, rank, recover, relabel, evaluate, report."""

from __future__ import annotations

TYPE_CHECKING = False  # without an import: a command listens to signals only after this file
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from delt_jax.formats.distilled import DistilledSet

__version__ = "0.1.0"


def load(
    path: str | Path,
    class_names: Sequence[str] = (),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> DistilledSet:
    """Loads a distilled set.

    Args:
      path: a work directory or its distilled/ folder, an export of delt_jax, or a set that
        others published in one of the layouts of docs/formats.md.
      class_names: in label order, in place of the names that the layout has; without either
        the classes are called by their numbers.
      mean, std: that a set of normalised floats was made with, one value or one per channel;
        its pixels are then rounded to 8 bits.

    Returns:
      images uint8 [N, H, W, C] and labels int32 [N], class by class and in order within a class,
      class_names, manifest, soft_labels (float32 logits [N, classes], or None), ipc, and
      per_class(k), the smaller set of the first k images of every class.

    Raises:
      delt_jax.errors.UserError: one sentence on what is wrong with the path or the set.
    """
    from delt_jax import formats  # so that importing delt_jax costs nothing

    return formats.load(path, class_names, mean, std)
