"""Statistics and terms of G-VBSM, EDC and WMDD against their released code."""

import functools

import jax
import jax.numpy as jnp
import judging
import method_files
import numpy as np
import pytest
import replays
from method_files import RELATIVE, assert_close, cases

from delt_jax.core import losses as losses_lib
from delt_jax.core.losses import Moments
from delt_jax.models.tap import apply_tapped
from delt_jax.teachers import layer_statistics, statistics_matching
from delt_jax.teachers.layer_statistics import Statistics
from delt_jax.teachers.statistics_matching import Distances, Followed
from delt_jax.terms import barycentre, class_bn, densification


def statistics_of(arrays, running=None):
    """Statistics from a file's names; BatchNorms' are the running ones where these are given."""

    def moments(kind, prefix):
        count = sum(name.startswith(kind) and name.endswith("/mean") for name in arrays)
        return tuple(
            Moments(arrays[f"{kind}{i}/{prefix}mean"], arrays[f"{kind}{i}/{prefix}variance"])
            for i in range(count)
        )

    norms = moments("bn", "") if running is None else running
    return Statistics(norms, moments("conv", ""), moments("conv", "cell_"))


def running_of(network):
    state = network.state
    count = sum(name.endswith(".running_mean") for name in state)
    names = [f"layers.norm.{i}.running_" for i in range(count)]
    return tuple(Moments(state[f"{name}mean"], state[f"{name}var"]) for name in names)


def check_steps(recorded, network, targets):
    """Asserts that terms and gradients of all steps are the recorded ones.

    Args:
      recorded: the file; averages begin at 0, as in the released code.
      network: what the images pass.
      targets: pairs of a weight and the statistics that are matched with it.
    """

    def check(dtype):
        with replays.precision(dtype):
            _check_steps(recorded, network, targets, dtype)

    judging.assert_decided(check)


def _check_steps(recorded, network, targets, dtype):
    record, arrays = recorded
    size, steps = network.spec.image_size, record["steps"]
    model, first = network.model(dtype), record["first"]

    @jax.jit
    def run(variables, images, before, counted):
        def total(images):
            tapped = apply_tapped(model, variables, images)
            now = layer_statistics.of_batch(tapped.norm_inputs, tapped.conv_inputs, size)
            matched, after = statistics_matching.follow(now, before, record["momentum"], counted)
            found = [
                jax.tree.map(
                    lambda x, weight=weight: weight * x,
                    statistics_matching.distances(matched, real),
                )
                for weight, real in targets
            ]
            off = Distances(*(sum(parts) for parts in zip(*found, strict=True)))
            return statistics_matching.total(off, first, counted), (off, after)

        return jax.value_and_grad(total, has_aux=True)(images)

    shapes = jax.eval_shape(lambda real: real, targets[0][1])
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, dtype), shapes)
    state = Followed(np.ones(1 + len(zeros.convs), bool), zeros)
    for i, (step, images) in enumerate(zip(steps, record["images"], strict=True)):
        counted = ~np.array(step.get("dropped", [False] * len(zeros.convs)), bool)
        pixels = replays.nhwc(method_files.drawn(images)).astype(dtype)
        (value, (off, state)), gradient = run(network.variables(dtype), pixels, state, counted)
        np.testing.assert_allclose(off.norms, step["bn"], rtol=RELATIVE)
        convs = np.where(counted, off.convs, 0)
        np.testing.assert_allclose(convs, step["conv"], rtol=RELATIVE)
        np.testing.assert_allclose(value, step["total"], rtol=RELATIVE)
        norm = np.linalg.norm(np.asarray(gradient, np.float64))
        np.testing.assert_allclose(norm, step["grad_norm"], rtol=RELATIVE)
        recorded_corner = arrays["gradient_corner"][i]
        assert_close(method_files.corner(gradient, recorded_corner), recorded_corner)


@pytest.mark.parametrize("path", cases("gvbsm"))
def test_statistics_and_terms_are_gvbsms(path):
    recorded = method_files.read(path)
    record = recorded.record
    network = method_files.network(recorded, record["size"])
    images = method_files.alone(network, method_files.drawn(record["real"]))
    whole, batches = (method_files.part_of(recorded, name) for name in ("whole", "batches"))
    method_files.assert_statistics(layer_statistics.over_images(images), whole)
    method_files.assert_statistics(
        method_files.batch_by_batch(images, record["batches_of"]), batches
    )
    check_steps(recorded, network, [(1.0, statistics_of(whole, running_of(network)))])


@pytest.mark.parametrize("path", cases("edc"))
def test_statistics_and_terms_are_edcs(path):
    recorded = method_files.read(path)
    record = recorded.record
    network = method_files.network(recorded, record["size"])
    images = method_files.alone(network, method_files.drawn(record["real"]))
    whole, of_class = (method_files.part_of(recorded, name) for name in ("whole", "class"))
    method_files.assert_statistics(layer_statistics.over_images(images), whole)
    # As released: means over images of single images' variances.
    real_labels = np.array(record["real_labels"])
    classes = [np.flatnonzero(real_labels == c) for c in range(record["classes"])]
    averaged = jax.tree.map(
        lambda x: np.stack([x[c].mean(0) if len(c) else 0 * x[0] for c in classes]), images
    )
    method_files.assert_statistics(averaged, of_class)
    labels = np.array(record["labels"])
    category = jax.tree.map(lambda x: x[labels].mean(0), statistics_of(of_class))
    everything = statistics_of(whole, running_of(network))
    check_steps(recorded, network, [(0.5, everything), (0.5, category)])


@pytest.mark.parametrize("path", cases("densification"))
def test_densification_is_gvbsms(path):
    record, arrays = method_files.read(path)
    images = replays.nhwc(method_files.drawn(record["images"]))
    assert record["tau"] == 4  # a constant of the term
    for dtype, suffix, tolerance in (("float32", "", RELATIVE), ("float64", "_float64", 1e-7)):
        with replays.precision(dtype):

            def value(x):
                nothing = np.zeros((len(images), 1), np.float32)
                tapped = type(
                    "Pass",
                    (),
                    dict.fromkeys(("logits", "features", "norm_inputs", "conv_inputs"), nothing),
                )
                seen = method_files.seen(tapped, x, record["labels"])
                return densification.TERM.value(seen, (), ())[0]

            total, gradient = jax.jit(jax.value_and_grad(value))(jnp.asarray(images, dtype))
            np.testing.assert_allclose(total, record[f"value{suffix}"], rtol=tolerance)
            norm = np.linalg.norm(np.asarray(gradient, np.float64))
            np.testing.assert_allclose(norm, record[f"grad_norm{suffix}"], rtol=tolerance)
            part = arrays[f"gradient_corner{suffix}"]
            assert_close(method_files.corner(gradient, part), part, tolerance)


@pytest.mark.parametrize("path", cases("barycentre"))
def test_barycentres_are_wmdds(path):
    record, arrays = method_files.read(path)
    assert arrays["features"].shape == (record["n"], record["dimension"])
    points = barycentre.barycentre(arrays["features"], arrays["start"])
    assert_close(points, arrays["points"])
    # Every point weighs the same, as ours do without saying so.
    np.testing.assert_allclose(arrays["weight"] * record["k"], np.ones(record["k"]))


@pytest.mark.parametrize("path", cases("wmdd"))
def test_loss_is_wmdds(path):
    recorded = method_files.read(path)
    record = recorded.record
    network = method_files.network(recorded, record["size"])
    real = method_files.alone(network, method_files.drawn(record["real"]))
    of_class = record["real_per_class"]
    whole, batches = (method_files.part_of(recorded, name) for name in ("whole", "batches"))
    for c in range(record["classes"]):
        own = jax.tree.map(lambda x, c=c: x[c * of_class : (c + 1) * of_class], real)
        mine, theirs = (
            {name: array[c] for name, array in found.items()} for found in (whole, batches)
        )
        method_files.assert_statistics(layer_statistics.over_images(own), mine)
        method_files.assert_statistics(
            method_files.batch_by_batch(own, record["batches_of"]), theirs
        )

    def check(dtype):
        with replays.precision(dtype):
            _check_loss(recorded, network, statistics_of(whole).norms, dtype)

    judging.assert_decided(check)


def _check_loss(recorded, network, statistics, dtype):
    record, arrays = recorded
    points, labels = method_files.drawn(record["barycentres"]), np.array(record["labels"])
    model = network.model(dtype)

    @jax.jit
    def run(variables, images):
        def loss(images):
            tapped = apply_tapped(model, variables, images)
            seen = method_files.seen(tapped, images, labels)
            cross_entropy = losses_lib.cross_entropy(tapped.logits, labels)
            distance = barycentre.TERM.value(seen, points, ())[0]
            layers = class_bn.layer_terms(seen, statistics)
            total = cross_entropy + distance + record["bn_weight"] * layers.sum()
            return total, (
                cross_entropy,
                distance,
                layers,
                class_bn.TERM.value(seen, statistics, ()),
            )

        return jax.value_and_grad(loss, has_aux=True)(images)

    images = replays.nhwc(method_files.drawn(record["images"])).astype(dtype)
    (value, (cross_entropy, distance, layers, whole_term)), gradient = run(
        network.variables(dtype), images
    )
    check = functools.partial(np.testing.assert_allclose, rtol=RELATIVE)
    check(cross_entropy, record["cross_entropy"])
    check(distance, record["distance"])
    check(layers, record["bn"])
    check(whole_term[0], np.sum(record["bn"]))
    check(value, record["loss"])
    check(np.linalg.norm(np.asarray(gradient, np.float64)), record["grad_norm"])
    assert_close(
        method_files.corner(gradient, arrays["gradient_corner"]), arrays["gradient_corner"]
    )
