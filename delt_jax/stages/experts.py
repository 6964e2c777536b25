"""Experts: trainings on all real images that trajectories are matched with, where a method asks.

Their weights after every epoch are in WORKDIR/experts. An expert that was stopped goes on from its
last whole epoch; processes of a job train a share of them each.
"""

from dataclasses import asdict
from typing import Any

from delt_jax import models
from delt_jax.augment import dsa
from delt_jax.core import stopping
from delt_jax.core.preprocessing import Preprocessing
from delt_jax.core.progress import progress, say
from delt_jax.data import Source
from delt_jax.learned import experts, methods
from delt_jax.learned.expert_store import ExpertStore
from delt_jax.learned.experts import ExpertImages, ExpertPlan
from delt_jax.learned.setups import (
    expert_plan,
    expert_store,
    preprocessing_of,
    setup_of,
)
from delt_jax.recipe import Recipe
from delt_jax.runtime import environment
from delt_jax.runtime import processes as hosts
from delt_jax.store import artefact, files
from delt_jax.store.identity import identity, versions
from delt_jax.store.workdir import WorkDir

ARTEFACT = "experts"


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
    )


def run(recipe: Recipe, source: Source, workdir: WorkDir) -> None:
    """Makes WORKDIR/experts, going on with what an interrupted run left in experts.partial."""
    stage_inputs, setup = inputs(recipe, source, workdir), setup_of(recipe, source)
    plan, count = expert_plan(recipe, setup), int(setup.option("experts"))
    if hosts.is_first():
        workdir.partial(ARTEFACT, stage_inputs)
    hosts.barrier("the folder of experts")
    store = expert_store(recipe, source, workdir.path, f"{ARTEFACT}.partial")
    size = store.size(count, plan.epochs)
    say(f"  training {count} experts of {plan.epochs} epochs; their weights take {size:,} bytes")
    space = preprocessing_of(recipe, source)
    _train(store, plan, source, space, hosts.share(range(count)))
    hosts.barrier("its experts")
    if hosts.is_first():
        _finish(store, workdir, stage_inputs, count, plan)


def _train(
    store: ExpertStore, plan: ExpertPlan, source: Source, space: Preprocessing, mine: Any
) -> None:
    """Trains experts to their end, each from its last whole epoch."""
    per_epoch = len(source.train) // plan.batch
    done = sum(max(store.finished(expert), 0) for expert in mine)
    if done:
        say(f"  {done} of {len(mine) * plan.epochs} epochs were trained before")
    total, real = len(mine) * plan.epochs * per_epoch, ExpertImages(source.train, space)
    with progress(total, "experts", "step", done * per_epoch) as bar, stopping.deferred():
        for expert in mine:
            last = store.finished(expert)
            if last < 0:
                params = store.write(expert, 0, experts.start(plan, expert))
                last = 0
            elif last < plan.epochs:
                params = store.read(expert, last)
            for number in range(last, plan.epochs):
                params = experts.epoch(plan, real, expert, number, params, lambda: bar.update(1))
                params = store.write(expert, number + 1, params)
                if stopping.requested():
                    stopping.leave()


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
