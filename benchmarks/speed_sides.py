"""The two sides that recover_speed.py times: one interface, the same weights and images."""

import copy
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_models
import torch_recovery

from delt_jax import models
from delt_jax.augment import crop
from delt_jax.core import keys
from delt_jax.models import ModelSpec, torch_weights
from delt_jax.models.tap import TappedNetwork
from delt_jax.recipe import RecoverRecipe
from delt_jax.recovery import step as recovery_step
from delt_jax.recovery.program import StepProgram, active_of, step_settings
from delt_jax.recovery.schedule import BatchSchedule
from delt_jax.recovery.types import Active, BatchInputs, RecoverState, TeacherVariables
from delt_jax.recovery.views import draw_views
from delt_jax.runtime import counting, devices

_BOUND = 2.0  # valid pixels, normalised, are within +- this in every channel


class Problem(NamedTuple):
    """Input of both sides.

    Attributes:
      spec: the teacher's architecture; its dtype is that of the activations.
      variables: its weights, random.
      images: float32 [B, S, S, C].
      recipe: settings of recovery.
    """

    spec: ModelSpec
    variables: dict[str, Any]
    images: np.ndarray
    recipe: RecoverRecipe


def make_problem(spec: ModelSpec, batch: int, recipe: RecoverRecipe) -> Problem:
    """Random weights and images, the same in every run."""
    shape = (batch, spec.image_size, spec.image_size, spec.channels)
    images = jax.random.uniform(keys.stream(0, "images"), shape, minval=-_BOUND, maxval=_BOUND)
    initialise = jax.jit(functools.partial(models.create(spec).init, train=False))
    variables = initialise(keys.stream(0, "weights"), images[:1])
    kept = {k: jax.device_get(variables[k]) for k in ("params", "batch_stats")}
    return Problem(spec, kept, np.asarray(images), recipe)


class Ours:
    """Our engine, compiled and spread as the recover stage does it, on one device.

    With `batches` > 1 the device works on so many at once, each with its own BN statistics.
    """

    def __init__(self, problem: Problem, batches: int):
        self._problem, self._batches = problem, batches
        self._model = models.create(problem.spec)
        self._variables = jax.tree.map(jnp.asarray, problem.variables)
        self._teachers = (TeacherVariables(self._variables),)
        self._settings = step_settings(problem.recipe, flip=True)
        self._lead = (batches,) if batches > 1 else ()
        self._compiled = functools.lru_cache(maxsize=None)(self._compile)
        self._compiled_views = functools.lru_cache(maxsize=None)(self._compile_views)
        self._chunk_steps = 1 if jax.default_backend() == "cpu" else 50

    def prepare(self, batch: BatchSchedule) -> Callable[[], None]:
        """One recovery of so many batches, ready to be run, once: its state is donated."""
        inputs, states = self._trees(batch)
        states, inputs = devices.stack_jobs([states], 1), devices.stack_jobs([inputs], 1)
        start = devices.stack_jobs([np.zeros(self._lead, np.int32)], 1)
        draw = self._compiled_views(batch.iterations)
        jax.block_until_ready((states, inputs))

        def run() -> None:
            state, jobs = states, (inputs, draw(start, inputs, ()))
            for rnd in batch.rounds:
                active = active_of(rnd.active)
                for first in range(0, rnd.iterations, self._chunk_steps):
                    steps = min(self._chunk_steps, rnd.iterations - first)
                    state, _ = self._compiled(active, steps)(state, jobs, self._teachers)
            jax.block_until_ready(state)

        return run

    def cost(self, batch: BatchSchedule) -> tuple[float, float]:
        """Operations and bytes of an image-iteration of all images, as XLA counts them."""
        inputs, states = self._trees(batch)
        one_step = self._chunk(len(batch.indices), 1)
        views = jax.eval_shape(self._drawing(1), jnp.zeros(self._lead, jnp.int32), inputs, ())
        given = states, (inputs, views), self._teachers
        images = self._batches * len(batch.indices)
        compiled = jax.jit(one_step).lower(*given).compile().cost_analysis()
        assert compiled is not None
        return counting.flops(one_step, *given) / images, compiled["bytes accessed"] / images

    def loss(self, labels: Sequence[int], box: tuple[int, int, int, int], flip: bool) -> float:
        """The objective of the images in one view."""
        view = crop.View(jnp.array(box, jnp.int32), jnp.array(flip), jnp.zeros(2, jnp.int32))

        @jax.jit
        def loss(variables, images, labels):
            teacher = TappedNetwork(self._model, variables)
            return recovery_step.loss(images, labels, view, teacher, self._settings)[0]

        return float(loss(self._variables, jnp.asarray(self._problem.images), jnp.array(labels)))

    def _trees(self, batch: BatchSchedule) -> tuple[BatchInputs, RecoverState]:
        channels = self._problem.spec.channels
        inputs = [
            BatchInputs(
                labels=jnp.array(batch.labels, jnp.int32),
                ranks=jnp.zeros(len(batch.labels), jnp.int32),
                start_iterations=jnp.array(batch.start_iterations, jnp.int32),
                end_iterations=jnp.array(batch.end_iterations, jnp.int32),
                iterations=jnp.int32(batch.iterations),
                key=keys.stream(0, "recover", i),
                low=jnp.full(channels, -_BOUND),
                high=jnp.full(channels, _BOUND),
            )
            for i in range(self._batches)
        ]
        state = recovery_step.init_state(jnp.asarray(self._problem.images))
        if self._batches == 1:
            return inputs[0], state
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *inputs)
        return stacked, jax.tree.map(lambda leaf: jnp.stack([leaf] * self._batches), state)

    def _chunk(self, active: Active, steps: int) -> Callable[..., Any]:
        program = StepProgram((self._model,), self._settings, active, steps)

        def chunk(state, inputs_and_views, teachers):
            return recovery_step.run_chunk(program, state, *inputs_and_views, teachers)

        return jax.vmap(chunk, in_axes=(0, 0, None)) if self._batches > 1 else chunk

    def _drawing(self, count: int) -> Callable[..., Any]:
        size = self._problem.spec.image_size

        def draw(first, inputs, _):
            return draw_views(first, inputs, self._settings, size, count)

        return jax.vmap(draw, in_axes=(0, 0, None)) if self._batches > 1 else draw

    def _compile(self, active: Active, steps: int) -> Callable[..., Any]:
        return devices.map_jobs(self._chunk(active, steps), 1)

    def _compile_views(self, count: int) -> Callable[..., Any]:
        return devices.map_jobs(self._drawing(count), 1)


class Rival:
    """PyTorch, eager or compiled, in the memory layout in which eager PyTorch is faster here."""

    def __init__(self, problem: Problem, device: torch.device, trial: BatchSchedule):
        self.device = device
        self._problem = problem
        sides = {layout: self._create(layout, False) for layout in torch_recovery.LAYOUTS}
        seconds = {layout: self._try(side, trial) for layout, side in sides.items()}
        self.layout = min(seconds, key=lambda layout: seconds[layout])
        self._side = sides[self.layout]

    def compiled(self) -> "Rival":
        """The same through `torch.compile`; its first run compiles."""
        other = copy.copy(self)
        other._side = self._create(self.layout, True)
        return other

    def _create(self, layout: str, compiled: bool) -> torch_recovery.Recovery:
        spec, recipe = self._problem.spec, self._problem.recipe
        network = torch_models.create(spec.name, spec.num_classes, spec.image_size, spec.channels)
        state = torch_weights.to_torch(self._problem.variables, spec)
        bounds = [-_BOUND] * spec.channels, [_BOUND] * spec.channels
        torch_models.load(network, state).to(self.device)
        bfloat16 = spec.dtype == "bfloat16"
        return torch_recovery.Recovery(network, recipe, bounds, layout, bfloat16, compiled)

    def _images(self) -> torch.Tensor:
        return torch.tensor(self._problem.images.transpose(0, 3, 1, 2)).to(self.device)

    def _try(self, side: torch_recovery.Recovery, trial: BatchSchedule) -> float:
        run = self._prepare(side, trial)
        run()
        return min(timed(run) for _ in range(2))

    def _prepare(self, side: torch_recovery.Recovery, batch: BatchSchedule) -> Callable[[], Any]:
        images, labels = self._images(), torch.tensor(batch.labels).to(self.device)
        torch_recovery.wait(self.device)
        return functools.partial(side.run, images, labels, batch)

    def prepare(self, batch: BatchSchedule) -> Callable[[], Any]:
        """One recovery of the batch, ready to be run."""
        return self._prepare(self._side, batch)

    def loss(self, labels: Sequence[int], box: tuple[int, int, int, int], flip: bool) -> float:
        """The objective of the images in one view."""
        with torch.no_grad():
            labels = torch.tensor(labels).to(self.device)
            return self._side.loss(self._images(), labels, box, flip).item()


def timed(run: Callable[[], Any]) -> float:
    """Seconds that a run takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
