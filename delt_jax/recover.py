"""Stage 3, recover: optimise the images, wave after wave of independent batches."""

import functools
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from delt_jax import checks, engine, keys, parallel, teacher
from delt_jax.data import Source
from delt_jax.engine import Job, Losses, RecoverState
from delt_jax.progress import Progress, progress, say
from delt_jax.recipe import Recipe, RecoverRecipe
from delt_jax.schedule import BatchSchedule, cost, draw_class_iterations, make_schedule
from delt_jax.selection import select
from delt_jax.start import start_images
from delt_jax.store import distilled, files
from delt_jax.store import ranking as ranking_store
from delt_jax.store.workdir import WorkDir
from delt_jax.teacher import Teacher

ARTEFACT = "distilled"
_CHUNK_STEPS = {"cpu": 1}  # XLA's CPU convolutions are slow inside a loop
_CHUNK_STEPS_ELSEWHERE = 50


def inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """What the distilled set is made from."""
    settings = {f"recover.{k}": v for k, v in asdict(recipe.recover).items()}
    del settings["recover.chunk_steps"]  # how fast, not what
    ranking = workdir.needed(ranking_store.MANIFEST, "rank")
    return settings | {
        "seed": recipe.seed,
        "ipc": recipe.ipc,
        "select.rule": recipe.select.rule,
        "select.start": recipe.select.start,
        "data": source.fingerprint,
        "data.flip": recipe.data.flip,
        "class_names": source.class_names,
        "ranking": ranking["hash"],
        "teacher": workdir.needed("teacher/manifest.json", "squeeze")["hash"],
    }


def schedule_of(recipe: Recipe, num_classes: int) -> tuple[BatchSchedule, ...]:
    """The run's EarlyLate schedule."""
    r = recipe.recover
    return make_schedule(
        num_classes,
        recipe.ipc,
        r.iterations,
        r.round_iterations,
        r.batch_size,
        class_iterations(recipe, num_classes),
    )


def class_iterations(recipe: Recipe, num_classes: int) -> tuple[int, ...]:
    """Class budgets; empty where every class has all iterations."""
    r = recipe.recover
    if not r.min_iterations:
        return ()
    return draw_class_iterations(
        num_classes, r.iterations, r.round_iterations, r.min_iterations, recipe.seed
    )


def run(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Makes WORKDIR/distilled; finished batches survive a kill in distilled.partial."""
    judge = teacher.load(workdir.path / "teacher")
    teacher.check_against(judge, source, say)
    ranking = ranking_store.read(workdir.path, judge.hash)
    num_classes = len(source.class_names)
    selected = select(ranking, recipe.select.rule, recipe.ipc, num_classes, recipe.seed)
    schedule = schedule_of(recipe, num_classes)
    made_from = inputs(recipe, source, workdir)
    partial = workdir.partial(ARTEFACT, made_from)
    remaining = [i for i in range(len(schedule)) if not _part(partial, i).exists()]
    done = len(schedule) - len(remaining)
    if done:
        say(f"  recover goes on: {done} of {len(schedule)} batches are done")
    by_plan: dict[Any, list[int]] = {}
    for i in remaining:  # one compiled program serves all batches with the same rounds
        by_plan.setdefault((len(schedule[i].images), schedule[i].rounds), []).append(i)
    total = sum(schedule[i].image_iterations for i in remaining)
    with progress(total, "recover", "image-iteration") as shown:
        for members in by_plan.values():
            width = min(parallel.device_count(), len(members))
            for wave in parallel.waves(members, width):
                _run_wave(
                    recipe,
                    source,
                    judge,
                    selected,
                    schedule,
                    wave,
                    width,
                    partial,
                    shown,
                    workdir,
                )
    _assemble(recipe, source, judge, selected, schedule, partial, workdir, made_from)
    shutil.rmtree(partial)


def make_job(recipe: Recipe, judge: Teacher, batch: BatchSchedule, index: int) -> Job:
    """What the engine reads for one batch; its key depends on the seed and batch index only."""
    low, high = judge.normalisation.bounds()
    return Job(
        labels=jnp.array(batch.labels, jnp.int32),
        joins=jnp.array(batch.joins, jnp.int32),
        iterations=jnp.int32(batch.iterations),
        key=keys.stream(recipe.seed, "recover", index),
        low=jnp.asarray(low),
        high=jnp.asarray(high),
    )


@functools.lru_cache(maxsize=64)
def _compiled(
    model: nn.Module,
    recipe: RecoverRecipe,
    flip: bool,
    active: engine.Active,
    steps: int,
    width: int,
):
    chunk = functools.partial(
        engine.run_chunk, model=model, recipe=recipe, flip=flip, active=active, steps=steps
    )
    return parallel.map_jobs(chunk, width)


def active_of(positions: tuple[int, ...]) -> engine.Active:
    """A count where the active images are the first ones, so that equal counts share code."""
    return len(positions) if positions == tuple(range(len(positions))) else positions


def _part(partial: Path, index: int) -> Path:
    return partial / f"batch_{index:06}.npz"


@dataclass
class _History:
    """Losses of a wave; fetched one chunk late, so that logging never stalls the devices."""

    fetched: list[Losses] = field(default_factory=list)
    waiting: list[Losses] = field(default_factory=list)

    def add(self, losses: Losses, lag: int) -> Losses | None:
        """Queues device values; fetches what is more than `lag` chunks old."""
        self.waiting.append(losses)
        latest = None
        while len(self.waiting) > lag:
            latest = jax.device_get(self.waiting.pop(0))
            self.fetched.append(latest)
        return latest

    def arrays(self) -> Losses:
        """All losses, float32 [width, iterations] each."""
        while self.waiting:
            self.fetched.append(jax.device_get(self.waiting.pop(0)))
        return Losses(*(np.concatenate(leaf, axis=1) for leaf in zip(*self.fetched, strict=True)))


def _mean_last(losses: Losses | None, jobs: int) -> dict[str, float]:
    """Terms of the newest iteration, averaged over the wave's jobs."""
    if losses is None:
        return {}
    return {k: float(v[:jobs, -1].mean()) for k, v in losses._asdict().items()}


def _run_wave(
    recipe: Recipe,
    source: Source,
    judge: Teacher,
    selected: np.ndarray,
    schedule: Sequence[BatchSchedule],
    wave: list[int],
    width: int,
    partial: Path,
    shown: Progress,
    workdir: WorkDir,
) -> None:
    started = time.perf_counter()
    flip = recipe.data.flip
    states: RecoverState = parallel.stack_jobs(
        [
            engine.init_state(
                jnp.asarray(
                    start_images(recipe, source, judge.normalisation, selected, schedule[i].images)
                )
            )
            for i in wave
        ],
        width,
    )
    jobs = parallel.stack_jobs([make_job(recipe, judge, schedule[i], i) for i in wave], width)
    model, variables = judge.model, jax.tree.map(jnp.asarray, judge.variables)
    chunk_steps = recipe.recover.chunk_steps or _CHUNK_STEPS.get(
        jax.default_backend(), _CHUNK_STEPS_ELSEWHERE
    )
    history = _History()
    for rnd in schedule[wave[0]].rounds:
        active = active_of(rnd.active)
        for first in range(0, rnd.iterations, chunk_steps):
            steps = min(chunk_steps, rnd.iterations - first)
            chunk = _compiled(model, recipe.recover, flip, active, steps, width)
            states, losses = chunk(states, jobs, variables)
            latest = history.add(losses, lag=1)
            shown.update(steps * len(rnd.active) * len(wave), **_mean_last(latest, len(wave)))
        workdir.log.write(
            "recover",
            rnd.start + rnd.iterations,
            batches=wave,
            active=len(rnd.active),
            **_mean_last(latest, len(wave)),
        )
    curves = history.arrays()
    seconds = (time.perf_counter() - started) / len(wave)
    for position, index in enumerate(wave):
        images = parallel.job(states.images, position)
        checks.finite(
            images, f"Batch {index} diverged to non-finite pixels; lower recover.learning_rate."
        )
        files.write_npz(
            _part(partial, index),
            images=judge.normalisation.to_pixels(
                images, truncate=recipe.recover.storage == "jpeg75"
            ),
            seconds=seconds,
            **{k: v[position] for k, v in curves._asdict().items()},
        )


def _assemble(
    recipe: Recipe,
    source: Source,
    judge: Teacher,
    selected: np.ndarray,
    schedule: Sequence[BatchSchedule],
    partial: Path,
    workdir: WorkDir,
    made_from: dict,
) -> None:
    size, channels = source.image_size, source.channels
    count = len(source.class_names) * recipe.ipc
    images = np.zeros((count, size, size, channels), np.uint8)
    curves: dict[str, list[np.ndarray]] = {name: [] for name in Losses._fields}
    seconds = 0.0
    for index, batch in enumerate(schedule):
        part = files.read_npz(_part(partial, index), "recover")
        images[list(batch.images)] = part["images"]
        seconds += float(part["seconds"])
        for name in curves:
            pad = recipe.recover.iterations - len(part[name])
            curves[name].append(np.pad(part[name], (0, pad), constant_values=np.nan))
    paid = cost(schedule, recipe.recover.iterations)
    manifest = {
        "inputs": made_from,
        "storage": recipe.recover.storage,
        "class_names": list(source.class_names),
        "ipc": recipe.ipc,
        "image_size": size,
        "channels": channels,
        "normalisation": asdict(judge.normalisation),
        "teacher": {
            "hash": judge.hash,
            "accuracy": judge.accuracy,
            "spec": asdict(judge.spec),
        },
        "seed": recipe.seed,
        "settings": {"select": asdict(recipe.select), "recover": asdict(recipe.recover)},
        "start": {
            "split": "train",
            "indices": selected.tolist(),
        }
        if recipe.select.start == "real"
        else {"noise_seed": recipe.seed},
        "schedule": {
            "class_iterations": class_iterations(recipe, len(source.class_names)),
            "joins": [list(b.joins) for b in schedule],
            "images": [list(b.images) for b in schedule],
            "image_iterations": paid.image_iterations,
            "full_image_iterations": paid.full_image_iterations,
            "fraction": paid.fraction,
        },
        "cost_seconds": round(seconds, 1),
    }
    with files.replacing_folder(workdir.path / ARTEFACT) as folder:
        manifest["hash"] = distilled.write_images(
            folder, images, recipe.ipc, recipe.recover.storage
        )
        files.write_npz(folder / "losses.npz", **{k: np.stack(v) for k, v in curves.items()})
        files.write_json(folder / "manifest.json", manifest)
    rate = paid.image_iterations / max(seconds, 1e-9)
    say(
        f"  recovered {count} images in {seconds:.0f} s: {paid.image_iterations} image-iterations"
        f" ({paid.fraction:.2%} of full optimisation), {rate:.0f} per second"
    )
