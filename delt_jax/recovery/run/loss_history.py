"""Losses of batches side by side, on their way from the devices to logs and files."""

from dataclasses import dataclass, field

import jax
import numpy as np

from delt_jax.recovery.types import Losses


@dataclass
class History:
    """Losses of a wave; fetched one chunk late, so that logging never stalls the devices."""

    fetched: list[Losses] = field(default_factory=list)  # float32 [jobs, iterations] each
    waiting: list[Losses] = field(default_factory=list)

    def add(self, losses: Losses, lag: int) -> Losses | None:
        """Queues device values; fetches what is more than `lag` chunks old."""
        self.waiting.append(losses)
        latest = None
        while len(self.waiting) > lag:
            values = jax.device_get(self.waiting.pop(0))
            latest = Losses(*(v.reshape(-1, v.shape[-1]) for v in values))
            self.fetched.append(latest)
        return latest

    def arrays(self) -> Losses:
        """All losses, float32 [jobs, iterations] each."""
        while self.waiting:
            self.add(self.waiting.pop(0), lag=0)
        whole = Losses(*(np.concatenate(leaf, axis=1) for leaf in zip(*self.fetched, strict=True)))
        self.fetched = [whole]
        return whole


def mean_last(losses: Losses | None, jobs: int, further: bool) -> dict[str, float]:
    """Terms of the newest iteration, averaged over the wave's jobs; `further` if there are any."""
    if losses is None:
        return {}
    bar = [name for name in Losses._fields if further or name != "further"]
    return {name: float(getattr(losses, name)[:jobs, -1].mean()) for name in bar}
