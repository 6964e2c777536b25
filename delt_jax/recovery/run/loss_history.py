"""Losses of batches side by side, on their way from the devices to logs and files."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import jax
import numpy as np

from delt_jax.recovery.types import Losses

_PARTS = tuple(name for name in Losses._fields if name != "terms")
_TERM = "term."  # begins the name of a term's own column


@dataclass
class History:
    """Losses of a device group, fetched one chunk late so that logging never stalls the devices.

    Attributes:
      fetched: on the host, float32 [batches, iterations] each, in order.
      waiting: still on the devices, float32 [devices, batches per device, iterations] each.
    """

    fetched: list[Losses] = field(default_factory=list)
    waiting: list[Losses] = field(default_factory=list)

    def add(self, losses: Losses, lag: int) -> Losses | None:
        """Queues device values, fetches those more than `lag` chunks old, returns the newest."""
        self.waiting.append(losses)
        latest = None
        while len(self.waiting) > lag:
            values = jax.device_get(self.waiting.pop(0))
            latest = jax.tree.map(lambda v: v.reshape(-1, v.shape[-1]), values)
            self.fetched.append(latest)
        return latest

    def arrays(self) -> Losses:
        """All losses so far, float32 [batches, iterations] each."""
        while self.waiting:
            self.add(self.waiting.pop(0), lag=0)
        whole = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *self.fetched)
        self.fetched = [whole]
        return whole


def columns(losses: Losses) -> dict[str, np.ndarray]:
    """The losses by the names that files and logs have: each term is "term.NAME"."""
    parts = {name: getattr(losses, name) for name in _PARTS}
    return parts | {f"{_TERM}{name}": value for name, value in losses.terms.items()}


def of_columns(arrays: Mapping[str, np.ndarray], terms: Iterable[str] | None = None) -> Losses:
    """Losses from what `columns` made, perhaps in an older version, which knew no single terms.

    Args:
      arrays: by name; others are not read.
      terms: names of the extra terms, NaN where they have no column; None takes those that have.

    Raises:
      KeyError: if a part is missing.
    """
    if terms is None:
        terms = [name.removeprefix(_TERM) for name in arrays if name.startswith(_TERM)]
    unknown = np.full_like(arrays["further"], np.nan)
    own = {name: arrays.get(f"{_TERM}{name}", unknown) for name in terms}
    return Losses(**{name: arrays[name] for name in _PARTS}, terms=own)


def none_yet(terms: Iterable[str]) -> Losses:
    """The losses of no iteration, of a batch."""
    none = np.zeros(0, np.float32)
    return Losses(none, none, none, none, dict.fromkeys(terms, none))


def mean_last(losses: Losses | None, batches: int) -> dict[str, float]:
    """Losses of the newest iteration, averaged over the first so many batches.

    "further", the sum of the extra terms, is among them only where there are any.
    """
    if losses is None:
        return {}
    found = columns(losses)
    if not losses.terms:
        del found["further"]
    return {name: float(values[:batches, -1].mean()) for name, values in found.items()}
