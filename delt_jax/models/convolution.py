"""The convolution of every architecture, in the form that suits its shape and the hardware."""

from collections.abc import Sequence
from typing import Any

import chex
import jax

from delt_jax.models import forms
from delt_jax.models.depthwise import convolve_shifted
from delt_jax.models.dots import convolve_dots
from delt_jax.models.strided import convolve_blocks
from delt_jax.models.winograd import convolve_winograd, suits

_FEW = 4  # channels; with more, the plain form of a strided convolution is fast
_ALIGNED = 16  # channels that an aligned form is padded to a multiple of


def convolve(
    x: chex.Array,
    kernel: chex.Array,
    strides: Sequence[int],
    padding: Any,
    feature_group_count: int = 1,
    **options: Any,
) -> chex.Array:
    """`jax.lax.conv_general_dilated` in the chosen form; an `nn.Conv` may take it in its place.

    Blocks help with a stride of more than 1 but no more than the kernel, and few channels; shifted
    slices where every channel has a kernel of its own; matrix products inside loops on CPUs, where
    there is neither stride nor group, of transformed tiles where the kernel is 3x3. Everything else
    has the plain form.

    Args:
      x: [B, H, W, C].
      kernel: [h, w, C / groups, F].
      strides: down and right.
      padding: pixels before and after, down and right, or a name that JAX knows.
      feature_group_count: groups of channels.
      **options: as `nn.Conv` passes them.
    """
    chosen = forms.current(x.dtype)
    dilated = {*options.get("lhs_dilation", ()), *options.get("rhs_dilation", ())} - {1}
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:-1], kernel.shape[:-2], strides, padding)
    if x.ndim == 4 and not dilated:
        if chosen.depthwise == "shifted" and _is_depthwise(x, kernel, feature_group_count):
            pads = tuple((before, after) for before, after in padding)
            return convolve_shifted(x, kernel, tuple(strides), pads)
        if chosen.stem != "plain" and _suits_blocks(x, kernel, strides, feature_group_count):
            multiple = _ALIGNED if chosen.stem == "aligned_blocks" else 1
            return convolve_blocks(x, kernel, strides, padding, multiple, options.get("precision"))
        if chosen.dense == "products" and max(strides) == 1 and feature_group_count == 1:
            many = x.shape[-1] > _FEW and suits(x, kernel, padding)
            form = convolve_winograd if many else convolve_dots
            return form(x, kernel, padding, options.get("precision"))
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, feature_group_count=feature_group_count, **options
    )


def _is_depthwise(x: chex.Array, kernel: chex.Array, groups: int) -> bool:
    """Whether each channel gives one, of a kernel of its own."""
    return groups == x.shape[-1] == kernel.shape[-1] > 1


def _suits_blocks(x: chex.Array, kernel: chex.Array, strides: Sequence[int], groups: int) -> bool:
    return (
        x.shape[-1] <= _FEW
        and groups == 1
        and max(strides) > 1
        and all(k >= s for k, s in zip(kernel.shape, strides, strict=False))
    )
