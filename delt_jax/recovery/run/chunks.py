"""The compiled programs of recovery: chunks of iterations, and the drawing of their views."""

import functools

from delt_jax.recovery import step as recovery_step
from delt_jax.recovery import views
from delt_jax.recovery.program import StepProgram, StepSettings
from delt_jax.runtime import devices
from delt_jax.runtime.programs import Program

_VIEWS_AT_ONCE = 256  # at least: a call for every view would take longer than the view


def views_at_once(chunk_steps: int) -> int:
    """How many views are drawn at once: those of some whole calls."""
    return -(-_VIEWS_AT_ONCE // chunk_steps) * chunk_steps


@functools.lru_cache(maxsize=256)
def compile_chunk(
    program: StepProgram,
    num_devices: int,
    batches_per_device: int,
    batch_size: int,
) -> Program:
    """Makes ``chunk(states, (inputs, views), teachers)`` of a program, for batches side by side.

    States, inputs and views have leading axes [num_devices, batches_per_device]; states are
    donated.
    """

    def chunk(state, inputs_and_views, teachers):
        return recovery_step.run_chunk(program, state, *inputs_and_views, teachers)

    # Under vmap, parameters that differ between batches would make grouped convolutions of all.
    lanes: devices.Lanes = "unrolled" if program.settings.perturbation > 0 else "vmap"
    return Program(devices.map_jobs(chunk, num_devices, batches_per_device, lanes))


@functools.lru_cache(maxsize=16)
def compile_views(
    settings: StepSettings,
    image_size: int,
    count: int,
    layout: tuple[int, int],
    batch_size: int,
) -> Program:
    """Makes ``draw(first, inputs, ())``, which draws the next `count` views of batches.

    `first`, int32, and inputs have the leading axes of `layout`; `first` is donated.
    """

    def draw(first, inputs, _):
        return views.draw_views(first, inputs, settings, image_size, count)

    return Program(devices.map_jobs(draw, *layout))
