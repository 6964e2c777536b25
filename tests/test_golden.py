"""Whole recoveries and student trainings, step by step against the released PyTorch code.

The recorded boxes, flips, rolls and mix boxes go through the functions that random draws feed.
"""

import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import golden_dir
from seeded import seeded_state

from delt_jax import engine, models, objective, training
from delt_jax.augment import crop, mix
from delt_jax.data import Normalisation
from delt_jax.models import ModelSpec, torch_files, torch_weights
from delt_jax.recipe import RecoverRecipe
from delt_jax.recover import active_of
from delt_jax.schedule import make_schedule
from delt_jax.teacher import soft_labels

# Cases that float noise decides, with what was measured. Every ReLU whose input lies within
# rounding of zero, and every pixel or weight whose gradient does, can tip either way.
UNSETTLED = {
    "dev_resnet18_earlylate": "losses agree within 6e-6, but one pixel of 36,864 ends 0.060 off, "
    "with this engine in float32 and in float64 alike",
    "dev_resnet18_mixup": "in float64, changing the images by 1e-7 changes the loss of step 4 by "
    "1 %; steps 1 and 2 agree within 1e-3",
}


def cases(folder, unsettled=()):
    """One test per recorded file; those that noise decides may miss their tolerance."""
    return [
        pytest.param(
            path,
            id=path.stem,
            marks=[pytest.mark.xfail(reason=unsettled[path.stem], raises=AssertionError)]
            if path.stem in unsettled
            else [],
        )
        for path in sorted((golden_dir() / folder).glob("*.json"))
    ]


def spec_of(name):
    return ModelSpec(name, num_classes=10, image_size=32, channels=3)


def seeded(spec, seed):
    listing = golden_dir() / "zoo" / f"{spec.name}.state_dict.json"
    return torch_weights.from_torch(seeded_state(listing, seed), spec)


def teacher_variables(record, spec):
    if "checkpoint" in record:
        state = torch_files.read(golden_dir() / record["checkpoint"])
        return torch_weights.from_torch(state, spec)
    return seeded(spec, record["seeded"])


def nhwc(images):
    return np.asarray(images).transpose(0, 2, 3, 1)


@functools.cache
def replay(path):
    """Runs a recorded recovery through the engine; yields (record, losses, terms, rate, active)."""
    record = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as arrays:
        init, final, labels = nhwc(arrays["init"]), nhwc(arrays["final"]), arrays["labels"]
    spec = spec_of(record["teacher"]["arch"])
    model, variables = models.create(spec), teacher_variables(record["teacher"], spec)
    recipe = RecoverRecipe(
        iterations=record["iterations"],
        round_iterations=record["round_iterations"],
        batch_size=len(labels),
        learning_rate=record["learning_rate"],
        bn_weight=record["bn_weight"],
        first_bn_multiplier=record["first_bn_multiplier"],
        curriculum=record["easy2hard"],
        milestone=float(record["milestone"]),
        jitter=record["jitter"],
        antialias=record["steps"][0]["antialias"],
    )
    (batch,) = make_schedule(
        len(labels) // record["ipc"],
        record["ipc"],
        record["iterations"],
        record["round_iterations"],
        len(labels),
        record["class_iterations"],
    )
    low, high = Normalisation(tuple(record["mean"]), tuple(record["std"])).bounds()
    final = (final - np.array(record["mean"])) / np.array(record["std"])  # recorded in [0, 1]
    order = np.array(batch.images)
    np.testing.assert_array_equal(labels[order], batch.labels)
    job = engine.Job(
        labels=jnp.array(batch.labels),
        joins=jnp.array(batch.joins),
        iterations=jnp.int32(batch.iterations),
        key=jax.random.key(0),
        low=jnp.asarray(low),
        high=jnp.asarray(high),
    )
    update = jax.jit(engine.update, static_argnums=(4, 5, 6))
    state = engine.init_state(jnp.asarray(init[order]))
    active_at = [r.active for r in batch.rounds for _ in range(r.iterations)]
    trajectory = []
    for step, active in zip(record["steps"], active_at, strict=True):
        done, total = engine.clocks(state, job, recipe, active_of(active))
        scale = engine.curriculum(recipe, done, total)
        rate = engine.learning_rate(recipe.learning_rate, done, total)
        view = crop.View(jnp.array(step["crop"]), jnp.array(step["flip"]), jnp.array(step["roll"]))
        state, losses, terms = update(state, job, view, variables, model, recipe, active_of(active))
        trajectory.append((step, len(active), losses, terms, rate, scale))
    images = np.empty_like(init)
    images[order] = state.images
    return record, trajectory, images, final, labels


@pytest.mark.parametrize("path", cases("recover"))
def test_recovery_has_the_recorded_losses(path):
    _, trajectory, _, _, _ = replay(path)
    for step, active, losses, terms, rate, scale in trajectory:
        assert active == step["batch"]
        chex.assert_trees_all_close(losses.loss, step["loss"], rtol=1e-3)
        chex.assert_trees_all_close(losses.cross_entropy, step["cross_entropy"], rtol=1e-2)
        chex.assert_trees_all_close(terms, jnp.array(step["bn_terms"]), rtol=1e-3)
        chex.assert_trees_all_close(rate, jnp.full(active, step["learning_rate"]), rtol=1e-4)
        chex.assert_trees_all_close(scale, jnp.full(active, step["scale"][0]), rtol=1e-5)


@pytest.mark.parametrize("path", cases("recover", UNSETTLED))
def test_recovery_ends_at_the_recorded_pixels(path):
    record, _, images, final, labels = replay(path)
    # The released code lets images of a class whose budget is spent drift; ours are frozen.
    full = np.array(record["class_iterations"]) == record["iterations"]
    classes = np.arange(len(labels)) // record["ipc"]
    assert full.any()
    chex.assert_trees_all_close(images[full[classes]], final[full[classes]], atol=0.05)


@functools.cache
def retrain(path):
    """Runs a recorded student training; the recorded numbers beside ours."""
    record = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as stored:
        arrays = dict(stored)
    images = jnp.asarray(nhwc(arrays["images"]))
    spec = spec_of(record["arch"])
    model = models.create(spec)
    student = seeded(spec, record["student_seed"])
    judge = seeded(spec, record["teacher_seed"])
    schedule = training.half_cosine(record["steps"][0]["learning_rate"], record["epochs"], 1)
    optimiser = training.adamw(schedule, record["weight_decay"])
    params = jax.tree.map(jnp.asarray, student["params"])
    state = training.TrainState(
        jnp.int32(0), params, student["batch_stats"], optimiser.init(params)
    )
    temperature = record["temperature"]

    @jax.jit
    def step_on(state, mixed):
        targets = soft_labels(model, judge, mixed, temperature)

        def loss(logits):
            return objective.kl_divergence(logits, targets, temperature)

        return training.update(model, optimiser, loss, state, mixed)

    losses = []
    for epoch, step in enumerate(record["steps"]):
        chex.assert_trees_all_close(schedule(epoch), jnp.float32(step["learning_rate"]), rtol=1e-5)
        permutation = jnp.array(step["permutation"])
        if record["mix"] == "cutmix":
            rows, columns = jnp.array(step["box_rows"]), jnp.array(step["box_columns"])
            mixed, _ = mix.cutmix(images, permutation, rows, columns)
        else:
            mixed, _ = mix.mixup(images, permutation, step["lambda"])
        state, loss = step_on(state, mixed)
        losses.append(float(loss))
    variances = [
        array
        for name, array in torch_weights.to_torch(state.variables, spec).items()
        if name.endswith("running_var")
    ]
    logits = model.apply(state.variables, images, train=False)
    return record, arrays, np.array(losses), variances, logits


@pytest.mark.parametrize("path", cases("train"))
def test_student_training_starts_at_the_recorded_loss(path):
    record, _, losses, _, _ = retrain(path)
    chex.assert_trees_all_close(losses[0], record["steps"][0]["loss"], rtol=1e-3)


@pytest.mark.parametrize("path", cases("train", UNSETTLED))
def test_student_training_follows_the_recorded_one(path):
    record, arrays, losses, variances, logits = retrain(path)
    recorded = np.array([step["loss"] for step in record["steps"]])
    chex.assert_trees_all_close(losses, recorded, rtol=1e-3)
    chex.assert_trees_all_close(variances[0], arrays["first_running_var"], rtol=1e-3)
    chex.assert_trees_all_close(variances[-1], arrays["last_running_var"], rtol=1e-3)
    scale = np.abs(arrays["final_eval_logits"]).max()
    chex.assert_trees_all_close(logits / scale, arrays["final_eval_logits"] / scale, atol=1e-3)
