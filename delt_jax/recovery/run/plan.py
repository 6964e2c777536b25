"""How a recovery runs, as plain data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ExecutionPlan:
    """Run-time choices that the recipe leaves to the machine.

    Attributes:
      dtype: of the teachers' activations.
      batches_per_device: how many batches a device works on at once.
      chunk_steps: iterations per compiled call.
      sizes: numbers of images that masked programs compute, ascending; empty where every set of
        active images has an exact program.
    """

    dtype: str
    batches_per_device: int
    chunk_steps: int
    sizes: tuple[int, ...] = ()
