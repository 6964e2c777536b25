"""Numbers recorded from other methods' released code, as golden/methods/README.md has them."""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import replays
from conftest import golden_dir, golden_file

from delt_jax.data import Normalisation
from delt_jax.models import torch_files
from delt_jax.models.tap import apply_tapped
from delt_jax.recovery.schedule import make_schedule
from delt_jax.teachers import layer_statistics
from delt_jax.teachers.layer_statistics import Statistics
from delt_jax.terms import TeacherOutputs

RELATIVE = 1e-4  # tolerance of losses, terms and gradients
PIXEL = 1e-2


class Recorded(NamedTuple):
    """A file, and its arrays where it has any."""

    record: dict[str, Any]
    arrays: dict[str, np.ndarray]


# The kinds of files; those of a pattern that begins with "!" are left out.
KINDS = {
    "rded": ["rded/*.json"],
    "sre2l": ["sre2l/*.json"],
    "cda": ["cda/*.json"],
    "densification": ["gvbsm/densification_*.json"],
    "gvbsm": ["gvbsm/*.json", "!gvbsm/densification_*.json", "!gvbsm/student_loss_*.json"],
    "edc": ["edc/*.json", "!edc/student_loss_*.json"],
    "student loss": ["*/student_loss_*.json"],
    "barycentre": ["wmdd/barycentre_*.json"],
    "wmdd": ["wmdd/loss_*.json"],
    "dwa": ["dwa/*.json"],
    "fadrm": ["fadrm/*.json"],
}


def folder() -> Path:
    """Where the files are."""
    return golden_dir() / "methods"


def files(kind: str) -> list[Path]:
    """The files of a kind."""
    found: set[Path] = set()
    for pattern in KINDS[kind]:
        if pattern.startswith("!"):
            found -= set(folder().glob(pattern[1:]))
        else:
            found |= set(folder().glob(pattern))
    return sorted(found)


def cases(kind: str) -> list[Any]:
    """One test per file of a kind."""
    return [pytest.param(path, id=f"{path.parent.name}-{path.stem}") for path in files(kind)]


@functools.cache
def read(path: Path) -> Recorded:
    """The recording whose JSON file is `path`."""
    arrays = {}
    if path.with_suffix(".npz").exists():
        with np.load(path.with_suffix(".npz")) as stored:
            arrays = dict(stored)
    return Recorded(json.loads(path.read_text()), arrays)


def drawn(value: Mapping[str, Any]) -> np.ndarray:
    """The array that a seed and a shape stand for."""
    draw, shape = np.random.default_rng(value["seed"]), value["shape"]
    if "how" not in value:
        return np.float32(value.get("scale", 1) * draw.standard_normal(shape))
    integers = re.fullmatch(r"integers\((\d+), (\d+), shape, uint8\)", value["how"])
    assert integers, value["how"]
    return draw.integers(int(integers[1]), int(integers[2]), shape, np.uint8)


def network(recorded: Recorded, size: int) -> replays.Network:
    """RDED's ConvNet with the file's weights, or with those of the checkpoint that it names."""
    prefix, record = "weights/", recorded.record
    if "teacher" in record:
        state = torch_files.read(golden_file(record["teacher"]))
    else:
        named = recorded.arrays.items()
        state = {name.removeprefix(prefix): a for name, a in named if name.startswith(prefix)}
    depth = sum(bool(re.fullmatch(r"layers\.conv\.\d+\.weight", name)) for name in state)
    width, channels = state["layers.conv.0.weight"].shape[:2]
    images = np.broadcast_to(np.float32(0), (1, channels, size, size))
    return replays.network(f"conv{depth}", state, images, width)


def normalisation(recorded: Recorded) -> Normalisation:
    """That of the file's images."""
    return Normalisation(tuple(recorded.record["mean"]), tuple(recorded.record["std"]))


def recovery(
    recorded: Recorded, starts: np.ndarray, recipe: Any, teacher: replays.Network
) -> replays.Case:
    """A recovery of all images at once; starts normalised [N, S, S, C]."""
    labels, steps = np.array(recorded.record["labels"]), recorded.record["steps"]
    (batch,) = make_schedule(len(labels), 1, recipe.iterations, 0, len(labels))
    return replays.Case(teacher, recipe, normalisation(recorded), starts, labels, batch, steps)


def assert_close(ours: Any, theirs: Any, tolerance: float = RELATIVE) -> None:
    """Asserts that numbers agree relative to the largest of them, as norms of arrays do."""
    assert np.shape(ours) == np.shape(theirs), (np.shape(ours), np.shape(theirs))
    largest = max(float(np.abs(theirs).max()), 1e-30)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * largest)


def corner(gradient: Any, like: np.ndarray) -> np.ndarray:
    """The part of a gradient [N, S, S, C] that was recorded, in torch's axes."""
    part = np.asarray(gradient).transpose(0, 3, 1, 2)
    return part[tuple(slice(0, n) for n in like.shape)]


@functools.cache
def _look(model: Any, side: int) -> Any:
    def look(variables, images):
        tapped = apply_tapped(model, variables, images)
        return layer_statistics.of_images(tapped.norm_inputs, tapped.conv_inputs, side)

    return jax.jit(look)


def alone(teacher: replays.Network, images: np.ndarray) -> Statistics:
    """Statistics of every image [N, C, S, S] by itself, float32 on the host."""
    side = layer_statistics.cell_side(teacher.spec.image_size)
    found = _look(teacher.model(), side)(teacher.variables(), replays.nhwc(images))
    return jax.tree.map(np.asarray, found)


def by_name(statistics: Statistics) -> dict[str, np.ndarray]:
    """Statistics by the names that they have in the files."""
    found = {}
    for i, (mean, variance) in enumerate(statistics.norms):
        found |= {f"bn{i}/mean": mean, f"bn{i}/variance": variance}
    for i, (channels, cells) in enumerate(zip(statistics.convs, statistics.cells, strict=True)):
        found |= {f"conv{i}/mean": channels.mean, f"conv{i}/variance": channels.variance}
        found |= {f"conv{i}/cell_mean": cells.mean, f"conv{i}/cell_variance": cells.variance}
    return found


def part_of(recorded: Recorded, prefix: str) -> dict[str, np.ndarray]:
    """Arrays of a file whose names begin with a prefix, by the rest of their names."""
    start = f"{prefix}/"
    named = recorded.arrays.items()
    found = {name.removeprefix(start): array for name, array in named if name.startswith(start)}
    assert found
    return found


def assert_statistics(ours: Statistics, theirs: Mapping[str, np.ndarray]) -> None:
    """Asserts that the statistics that a file has are ours."""
    named = by_name(ours)
    for name, array in theirs.items():
        if name.endswith("mean"):  # may be nearly zero: in units of the spread
            spread = np.sqrt(named[name.removesuffix("mean") + "variance"].max())
            assert np.shape(named[name]) == array.shape
            np.testing.assert_allclose(named[name], array, rtol=RELATIVE, atol=RELATIVE * spread)
        else:
            assert_close(named[name], array)


def batch_by_batch(images: Statistics, size: int) -> Statistics:
    """Statistics as the released code averages them over batches, weighted by their sizes."""
    count = len(images.norms[0].mean)
    parts = [
        (
            min(size, count - at) / count,
            layer_statistics.over_images(jax.tree.map(lambda x, at=at: x[at : at + size], images)),
        )
        for at in range(0, count, size)
    ]
    return jax.tree.map(
        lambda *leaves: sum(leaves),
        *[jax.tree.map(lambda x, share=share: share * x, part) for share, part in parts],
    )


def seen(tapped: Any, images: Any, labels: Any) -> TeacherOutputs:
    """What terms see of a pass; the rank of an image is the number of those before it."""
    labels = [int(label) for label in labels]
    names = list(dict.fromkeys(labels))
    return TeacherOutputs(
        images=images,
        labels=np.array(labels, np.int32),
        ranks=np.array([labels[:i].count(c) for i, c in enumerate(labels)], np.int32),
        classes=tuple(names.index(label) for label in labels),
        logits=tapped.logits,
        features=tapped.features,
        norm_inputs=tapped.norm_inputs,
        conv_inputs=tapped.conv_inputs,
        key=jax.random.key(0),
    )
