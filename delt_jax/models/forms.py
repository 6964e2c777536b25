"""Which form of a part is used: the plain one, or an equal one that suits the hardware better.

Every form computes the same function; tests hold each to the plain one. The choice is made here
alone, from the backend and the type of the activations, when a program is traced.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from delt_jax.augment.crop import Precision

Stem = Literal["plain", "blocks", "aligned_blocks"]
View = Literal["HIGHEST", "HIGH", "BF16_BF16_F32_X3"]
Pool = Literal["plain", "indexed"]
Depthwise = Literal["plain", "shifted"]
Dense = Literal["plain", "products"]


@dataclass(frozen=True)
class Forms:
    """The form of each part.

    Attributes:
      stem: strided convolutions of few channels: as they are, on blocks of pixels, or on blocks
        whose channels are padded (`delt_jax.models.strided`).
      view: precision of the view's matrix products, a name of `jax.lax.Precision` or of
        `jax.lax.DotAlgorithmPreset`. HIGH is TF32 on NVIDIA's GPUs and three bfloat16 products on
        TPUs. Presets do not run on every device; no choice uses them, but benchmarks may.
      pool: max-pools with XLA's gradient, or with one that knows where each maximum was
        (`delt_jax.models.pool`).
      depthwise: convolutions with a kernel for every channel: as they are, or as sums of shifted
        slices (`delt_jax.models.depthwise`).
      dense: other convolutions without stride: as they are, or as sums of matrix products, of
        transformed tiles or of shifted images (`delt_jax.models.winograd`, `delt_jax.models.dots`).
    """

    stem: Stem = "plain"
    view: View = "HIGHEST"
    pool: Pool = "plain"
    depthwise: Depthwise = "plain"
    dense: Dense = "plain"

    @property
    def view_precision(self) -> Precision:
        """`view` as `delt_jax.augment.crop.view_images` takes it."""
        if self.view in jax.lax.Precision.__members__:
            return jax.lax.Precision[self.view]
        return jax.lax.DotAlgorithmPreset[self.view]


PLAIN = Forms()
_forced: ContextVar[Forms | None] = ContextVar("forced", default=None)
_in_loops: ContextVar[bool] = ContextVar("in_loops", default=False)


def choose(backend: str, dtype: jnp.dtype, in_loops: bool = False) -> Forms:
    """The forms for a backend ("cpu", "gpu", "tpu") and a type of activations.

    Args:
      backend: as JAX names it.
      dtype: of activations.
      in_loops: whether the network runs inside a compiled loop, or side by side with others of
        other weights.
    """
    narrow = jnp.dtype(dtype) == jnp.bfloat16
    if backend == "cpu":
        dense: Dense = "products" if in_loops else "plain"
        return Forms(pool="indexed", depthwise="shifted", dense=dense)
    # Products of views feed activations, whose own rounding is coarser than TF32's if narrow.
    view: View = "HIGH" if narrow else "HIGHEST"
    if backend == "tpu":
        return Forms("blocks", view, "plain")
    return Forms("aligned_blocks" if narrow else "blocks", view, "indexed")


def current(dtype: jnp.dtype) -> Forms:
    """The forms of a program that is being traced: the forced ones, else those chosen."""
    return _forced.get() or choose(jax.default_backend(), dtype, _in_loops.get())


@contextlib.contextmanager
def forced(forms: Forms) -> Iterator[None]:
    """A context in which programs are traced with these forms; for tests and benchmarks.

    A function that `jax.jit` has traced before keeps the forms it was traced with.
    """
    token = _forced.set(forms)
    try:
        yield
    finally:
        _forced.reset(token)


@contextlib.contextmanager
def in_loops() -> Iterator[None]:
    """A context in which networks are traced for the inside of compiled loops and of `jax.vmap`.

    Where gradients of weights are most of the work, it pays outside, too.
    """
    token = _in_loops.set(True)
    try:
        yield
    finally:
        _in_loops.reset(token)
