"""Views of many positions of an epoch, drawn by one program that all who need them share.

Teachers that label views and students that learn from them call the same compiled program wherever
they draw from sets of one shape, whichever images these hold.
"""

import functools
import math
from typing import NamedTuple

import chex
import jax

from delt_jax.augment.views import Mixed, ViewProgram, plan_epoch, student_views
from delt_jax.runtime import devices
from delt_jax.runtime.programs import Program


class Wanted(NamedTuple):
    """Views to be drawn.

    Attributes:
      view_key: key of the views of all epochs; every epoch folds its number into it.
      pixels: uint8 [N, S, S, C], the whole set; or float32 in the networks' space.
      positions: int32 [n], of an epoch.
    """

    view_key: chex.PRNGKey
    pixels: chex.Array
    positions: chex.Array


class Drawn(NamedTuple):
    """Views, and what they were made of.

    Attributes:
      mixed: images [n, S, S, C] and the share of their own image in each.
      own, partners: int32 [n], indices of the images and of those mixed into them.
    """

    mixed: Mixed
    own: chex.Array
    partners: chex.Array


class JobLayout(NamedTuple):
    """Where jobs run side by side; static.

    Attributes:
      num_devices: local devices in use.
      per_device: jobs on each of them.
      lanes: how the jobs of a device are in its program (see `devices.map_jobs`).
    """

    num_devices: int = 1
    per_device: int = 1
    lanes: devices.Lanes = "vmap"


def draw(wanted: Wanted, epoch: chex.Array, program: ViewProgram, group_size: int) -> Drawn:
    """Draws views of one job.

    Args:
      wanted: key, set and positions.
      epoch: int32 scalar, number of the epoch as views count it.
      program: how to draw, static.
      group_size: number of images that are mixed among themselves, static.
    """
    key = jax.random.fold_in(wanted.view_key, epoch)
    plan = plan_epoch(key, len(wanted.pixels), group_size)
    mixed = student_views(key, wanted.pixels, plan, wanted.positions, program)
    own = plan.order[wanted.positions]
    return Drawn(mixed, own, plan.order[plan.partner[wanted.positions]])


@functools.lru_cache(maxsize=32)
def compiled(
    program: ViewProgram,
    group_size: int,
    shape: tuple[int, ...],
    count: int,
    layout: JobLayout,
) -> Program:
    """A program ``draw((), wanted, epoch) -> Drawn`` for jobs side by side.

    Args:
      program: how to draw.
      group_size: number of images that are mixed among themselves.
      shape: of the whole set's pixels.
      count: of positions; with `shape` it tells programs apart.
      layout: of the jobs. `wanted` has leading axes [num_devices, per_device].
    """
    del shape, count

    def one(nothing, wanted, epoch):
        del nothing
        return draw(wanted, epoch, program, group_size)

    return Program(devices.map_jobs(one, *layout))


def span(count: int, batch: int, group_size: int, most: int) -> tuple[int, bool]:
    """How many positions are drawn at once.

    Args:
      count: positions of an epoch.
      batch: number of positions that stay together.
      group_size: number of images that are mixed among themselves.
      most: positions whose views fit into memory at once; a batch may have more.

    Returns:
      Their number, a multiple of `batch` unless it is `count`; and whether spans hold whole groups
      of the mix, so that the views of partners need not be drawn again (see `ViewProgram.aligned`).

    >>> span(1000, 100, 100, 250), span(80, 100, 100, 250), span(1000, 10, 100, 50)
    ((200, True), (80, True), (50, False))
    """
    if count <= most:
        return count, True
    whole = math.lcm(batch, group_size)
    if whole <= max(most, batch):
        return min(count, max(most // whole, 1) * whole), True
    return min(count, max(most // batch, 1) * batch), False
