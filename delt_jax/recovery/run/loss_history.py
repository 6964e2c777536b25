"""Losses of batches side by side, on their way from the devices to logs and files."""

from dataclasses import dataclass, field

import jax
import numpy as np

from delt_jax.recovery.types import Losses


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
            latest = Losses(*(v.reshape(-1, v.shape[-1]) for v in values))
            self.fetched.append(latest)
        return latest

    def arrays(self) -> Losses:
        """All losses so far, float32 [batches, iterations] each."""
        while self.waiting:
            self.add(self.waiting.pop(0), lag=0)
        whole = Losses(*(np.concatenate(leaf, axis=1) for leaf in zip(*self.fetched, strict=True)))
        self.fetched = [whole]
        return whole


def mean_last(losses: Losses | None, batches: int, extra_terms: bool) -> dict[str, float]:
    """Losses of the newest iteration, averaged over the first so many batches.

    "further", the sum of the extra terms, is among them only where there are any.
    """
    if losses is None:
        return {}
    names = [name for name in Losses._fields if extra_terms or name != "further"]
    return {name: float(getattr(losses, name)[:batches, -1].mean()) for name in names}
