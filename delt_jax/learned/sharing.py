"""Means over the real images of all devices, inside a mapped function and outside."""

from typing import Any, TypeVar

import chex
import jax

from delt_jax.runtime.devices import AXIS

Tree = TypeVar("Tree")


def count() -> int:
    """Devices that share the real images of a step; 1 outside a function mapped over `AXIS`."""
    try:
        return jax.lax.axis_size(AXIS)
    except NameError:  # no axis of this name is mapped
        return 1


def place() -> int | chex.Array:
    """Number of this device among those that share; 0 outside."""
    return jax.lax.axis_index(AXIS) if count() > 1 else 0


def axis() -> str | None:
    """`AXIS` where it is mapped, else None."""
    return AXIS if count() > 1 else None


def mean(tree: Tree) -> Tree:
    """Averages every leaf over the devices; on one it stays as it is."""
    return jax.lax.pmean(tree, AXIS) if count() > 1 else tree


def part(tree: Any) -> Any:
    """This device's share of every leaf's leading axis, which is the same on all.

    A leaf whose length the devices cannot share evenly stays whole, so that means over devices are
    means over its images all the same.
    """
    devices = count()

    def cut(leaf: chex.Array) -> chex.Array:
        if devices == 1 or len(leaf) % devices:
            return leaf
        length = len(leaf) // devices
        return jax.lax.dynamic_slice_in_dim(leaf, jax.lax.axis_index(AXIS) * length, length)

    return jax.tree.map(cut, tree)
