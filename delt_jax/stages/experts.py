"""Experts: trainings on all real images that trajectories are matched with, where a method asks.

Their weights after every epoch are in WORKDIR/experts. An expert that was stopped goes on from its
last whole epoch; processes of a job train a share of them each, groups of them side by side.
"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from delt_jax import models
from delt_jax.augment import dsa
from delt_jax.core import stopping
from delt_jax.core.progress import Progress, progress, say
from delt_jax.data import Source
from delt_jax.learned import expert_groups, experts, methods
from delt_jax.learned.expert_groups import ExpertImages, ExpertLayout
from delt_jax.learned.expert_store import ExpertStore
from delt_jax.learned.experts import ExpertPlan
from delt_jax.learned.method import Held
from delt_jax.learned.setups import (
    expert_plan,
    expert_store,
    holds_out,
    learned_from,
    preprocessing_of,
    setup_of,
)
from delt_jax.recipe import Recipe
from delt_jax.runtime import devices, environment
from delt_jax.runtime import processes as hosts
from delt_jax.stages.costs import learn_memory
from delt_jax.store import artefact, files
from delt_jax.store.identity import identity, versions
from delt_jax.store.workdir import WorkDir

ARTEFACT = "experts"
_EXECUTION, _SECONDS = "execution.json", "seconds-"  # files of unfinished experts


def skipped(recipe: Recipe) -> str:
    """Why no experts are trained, as a phrase; empty if some are."""
    if recipe.synthesis != "learn":
        return "synthesis is 'recover'"
    if not methods.find(recipe.learn.method).walks_on_experts:
        return f"{recipe.learn.method} matches no trajectories"
    return ""


def inputs(recipe: Recipe, source: Source, workdir: WorkDir) -> dict[str, Any]:
    """Inputs of the experts."""
    del workdir
    setup = setup_of(recipe, source)
    plan = expert_plan(recipe, setup)
    parts = {
        "learned.experts": experts.VERSION,
        f"model.{setup.spec.name}": models.version(setup.spec.name),
    }
    if plan.augment:
        parts["augment.dsa"] = dsa.VERSION
    held_out = {"data.split_seed": recipe.data.split_seed} if holds_out(recipe) else {}
    described = asdict(plan) | {"spec": plan.spec.as_dict(), "count": setup.option("experts")}
    return (
        {f"experts.{name}": value for name, value in described.items()}
        | versions(parts)
        | {
            "float16": setup.option("float16"),
            "learn.preprocessing": recipe.learn.preprocessing,
            "data.mean": recipe.data.mean,
            "data.std": recipe.data.std,
            "data": source.fingerprint,
            "data.flip": recipe.data.flip,
            "class_names": source.class_names,
        }
        | held_out
    )


def run(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Makes WORKDIR/experts, going on with what an interrupted run left in experts.partial."""
    stage_inputs, setup = inputs(recipe, source, workdir), setup_of(recipe, source)
    source = learned_from(recipe, source)
    plan, count = expert_plan(recipe, setup), int(setup.option("experts"))
    if hosts.is_first():
        workdir.partial(ARTEFACT, stage_inputs)
    hosts.barrier("the folder of experts")
    store = expert_store(recipe, source, workdir.path, f"{ARTEFACT}.partial")
    size = store.size(count, plan.epochs)
    say(f"  training {count} experts of {plan.epochs} epochs; their weights take {size:,} bytes")
    each = hosts.broadcast(_per_device(plan, count, store.folder) if hosts.is_first() else None)
    real = ExpertImages(source.train, preprocessing_of(recipe, source))
    _train(store, plan, real, hosts.share(range(count)), each)
    hosts.barrier("its experts")
    if hosts.is_first():
        _finish(store, workdir, stage_inputs, count, plan)


def _per_device(plan: ExpertPlan, count: int, partial: Path) -> int:
    """Experts that train together on a device: as many as when they began on such devices.

    The number may change the last bits of an expert on an accelerator.
    """
    path, backend = partial / _EXECUTION, jax.default_backend()
    try:
        stored = files.read_object(path)
        if stored.get("backend") == backend and int(stored["per_device"]) > 0:
            return int(stored["per_device"])
    except (OSError, KeyError, TypeError, ValueError):
        pass
    chosen = expert_groups.per_device(plan, count, learn_memory(plan.spec, Held(plan.batch), 1))
    files.write_json(path, {"backend": backend, "per_device": chosen})
    return chosen


def _train(store: ExpertStore, plan: ExpertPlan, real: ExpertImages, mine: Any, each: int) -> None:
    """Trains experts to their end, `each` on a device; those that have come equally far at once."""
    steps = len(real.examples) // plan.batch
    epochs_done = {expert: max(store.finished(expert), 0) for expert in mine}
    done, total = sum(epochs_done.values()), len(mine) * plan.epochs
    if done:
        say(f"  {done} of {total} epochs were trained before")
    with progress(total * steps, "experts", "step", done * steps) as bar, stopping.deferred():
        for epoch in sorted(set(epochs_done.values()) - {plan.epochs}, reverse=True):
            alike = [expert for expert in mine if epochs_done[expert] == epoch]
            layout = expert_groups.layout_of(len(alike), each)
            for members in devices.device_groups(alike, layout.experts):
                _train_group(store, plan, real, layout, (members, epoch, bar))


def _train_group(
    store: ExpertStore,
    plan: ExpertPlan,
    real: ExpertImages,
    layout: ExpertLayout,
    begun: tuple[list[int], int, Progress],
) -> None:
    """Trains a group to its end; signals are obeyed after every epoch, once it is stored."""
    members, last, bar = begun
    timer = _Timer(store.folder)
    trained = {expert: _begin(store, plan, expert, last) for expert in members}
    for number in range(last, plan.epochs):
        trained = expert_groups.epoch(plan, real, layout, trained, number, bar.update)
        trained = {
            expert: store.write(expert, number + 1, params) for expert, params in trained.items()
        }
        timer.note()
        if stopping.requested():
            stopping.leave()


def _begin(store: ExpertStore, plan: ExpertPlan, expert: int, epoch: int) -> Any:
    """Weights of an expert after `epoch` epochs; fresh ones are stored."""
    if epoch == 0 and store.finished(expert) < 0:
        return store.write(expert, 0, experts.start(plan, expert))
    return store.read(expert, epoch)


class _Timer:
    """Seconds that a process spends on experts, which an unfinished stage keeps in a file."""

    def __init__(self, folder: Path):
        """Goes on from what earlier runs of a process of this number have noted."""
        self._path = folder / f"{_SECONDS}{hosts.index()}.json"
        self._earlier, self._started = _noted(self._path), time.monotonic()

    def note(self) -> None:
        """Writes the seconds so far."""
        seconds = self._earlier + time.monotonic() - self._started
        files.write_json(self._path, {"seconds": seconds})


def _noted(path: Path) -> float:
    try:
        return float(files.read_object(path)["seconds"])
    except (OSError, KeyError, TypeError, ValueError):  # no epoch was finished, or it is damaged
        return 0.0


def _finish(
    store: ExpertStore, workdir: WorkDir, stage_inputs: dict[str, Any], count: int, plan: ExpertPlan
) -> None:
    """Seals the experts, whose files are linked to their place."""
    manifest = {
        "inputs": stage_inputs,
        "network": plan.spec.as_dict(),
        "experts": count,
        "epochs": plan.epochs,
        "form": store.form,
        "repeatable": environment.repeats(),
        "made": devices.here_and_now(),
        "seconds": round(sum(map(_noted, store.folder.glob(f"{_SECONDS}*.json"))), 1),
    }
    with artefact.replacing(workdir.path / ARTEFACT) as folder:
        for expert in range(count):
            for epoch in range(plan.epochs + 1):
                target = ExpertStore(folder, store.form, store.like).path(expert, epoch)
                target.parent.mkdir(parents=True, exist_ok=True)
                files.link(store.path(expert, epoch), target)
        manifest["hash"] = identity(
            {name: artefact.described(path) for name, path in artefact.below(folder).items()}
        )
        artefact.seal(folder / "manifest.json", manifest)
    files.delete_folder(store.folder)
