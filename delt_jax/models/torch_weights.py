"""Converts our variables to torch's names and layouts, and back.

The names of our modules mirror torch's, so one rule serves every architecture: a path
("layer1_0", "conv1", "kernel") is torch's "layer1.0.conv1.weight". The few names that the
rule misses are in `_RENAMES`.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from delt_jax import models
from delt_jax.errors import UserError
from delt_jax.models import ModelSpec, swin, timm_names

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
# torch also stores counters, and tables that follow from the architecture.
_DERIVED = ("num_batches_tracked", "relative_coords_table", "relative_position_index")

# Substitutions in the name that the rule gives, by the beginning of the model's name.
_RENAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "conv": ((r"^(conv|norm)\.", r"layers.\1."),),
    # The names of efficientnet_lite_pytorch, where every module's begins with an underscore.
    "efficientnet_lite0": ((r"(^|\.)(?=[a-z]\w*\.)", r"\1_"),),
    "vit": (
        (r"^encoder_layer\.", "encoder.layers.encoder_layer_"),
        (r"\.ln\.(\d)", r".ln_\1"),
        (r"\.in_proj\.", ".in_proj_"),
        (r"^(ln\.|pos_embedding)", r"encoder.\1"),
        (r"^head\.", "heads.head."),
    ),
}
# Substitutions for the names in files of older versions of torchvision.
_OLD_NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "vit": ((r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3.")),
}
_HEADS = {
    "alexnet": "classifier.6",
    "conv": "classifier",
    "dc_conv": "classifier",
    "efficientnet": "classifier.1",
    "efficientnet_lite0": "_fc",
    "mobilenet_v2": "classifier.1",
    "mobilenet_v2_modified": "conv2",
    "resnet": "fc",
    "shufflenet": "fc",
    "swin": "head",
    "vgg11": "classifier.6",
    "vit": "heads.head",
}


class Entry(NamedTuple):
    """One array: its path in our variables, and torch's name and shape."""

    path: tuple[str, ...]
    name: str
    shape: tuple[int, ...]


@functools.lru_cache(maxsize=8)
def entries(spec: ModelSpec) -> tuple[Entry, ...]:
    """Lists every parameter and running statistic of a model without computing any."""
    model = models.create(spec)
    image = jnp.zeros((1, spec.image_size, spec.image_size, spec.channels))
    shapes = jax.eval_shape(lambda k: model.init(k, image, train=False), jax.random.key(0))
    kept = {k: shapes[k] for k in ("params", "batch_stats") if k in shapes}
    return tuple(
        Entry(path, torch_name(path, spec.name), _torch_shape(leaf.shape))
        for path, leaf in flatten_dict(kept).items()
    )


def torch_name(path: Sequence[str], architecture: str) -> str:
    """torch's name of a variable, e.g. of ("params", "layer1_0", "conv1", "kernel")."""
    *modules, leaf = path[1:]
    parts = [re.sub(r"_(?=\d+(?:_|$))", ".", m) for m in modules]
    name = ".".join([*parts, _LEAVES.get(leaf, leaf)])
    return _substitute(name, _of_family(_RENAMES, architecture, ()))


def head_name(architecture: str) -> str:
    """torch's name of the last layer."""
    return _of_family(_HEADS, architecture, "")


def head(
    state: Mapping[str, np.ndarray], architecture: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Weight [classes, D] and bias [classes] of the last layer of torch's state dict; or None."""
    renamed = timm_names.to_torchvision(state, architecture)
    names = [f"{head_name(architecture)}.{leaf}" for leaf in ("weight", "bias")]
    return (renamed[names[0]], renamed[names[1]]) if renamed.keys() >= set(names) else None


def is_head(path: Sequence[str], spec: ModelSpec) -> bool:
    """Whether a variable of a model, by its path, belongs to the last layer."""
    return torch_name(path, spec.name).startswith(f"{head_name(spec.name)}.")


def without_head(state: Mapping[str, np.ndarray], spec: ModelSpec) -> dict[str, np.ndarray]:
    """torch's state dict with zeros of the spec's shapes for its last layer, whatever that was."""
    own = [entry for entry in entries(spec) if is_head(entry.path, spec)]
    renamed = timm_names.to_torchvision(state, spec.name)
    return dict(renamed) | {entry.name: np.zeros(entry.shape, np.float32) for entry in own}


def outputs(state: Mapping[str, np.ndarray], architecture: str) -> int:
    """How many classes the last layer of torch's state dict has; 0 if it has no such layer."""
    found = head(state, architecture)
    return 0 if found is None else len(found[0])


def from_torch(
    state: Mapping[str, np.ndarray], spec: ModelSpec, classes: Sequence[int] | None = None
) -> dict[str, Any]:
    """Our variables from torch's arrays.

    Args:
      state: torch's state dict, named as torchvision or timm name it (`timm_names`).
      spec: the architecture that it is for.
      classes: the outputs to keep, in this order, of a head that has more; None keeps all.

    Returns:
      {"params", "batch_stats"} as float32 host arrays, without "batch_stats" where none are.

    Raises:
      UserError: naming every key that is missing, too many or of another shape, or the
        class that the head does not have.
    """
    old = _of_family(_OLD_NAMES, spec.name, ())
    state = {
        _substitute(name, old): array
        for name, array in state.items()
        if name.rpartition(".")[2] not in _DERIVED
    }
    state = timm_names.to_torchvision(state, spec.name)
    if classes is not None:
        state = _cut_head(state, spec, classes)
    expected = entries(spec)
    _check(state, expected, spec)
    return unflatten_dict(
        {entry.path: _to_ours(np.asarray(state[entry.name], np.float32)) for entry in expected}
    )


def to_torch(variables: Mapping[str, Any], spec: ModelSpec) -> dict[str, np.ndarray]:
    """torch's state dict of our variables, complete for `load_state_dict(strict=True)`.

    Only BatchNorm's step counters are left out, which torch sets to zero itself.
    """
    flat = flatten_dict(dict(variables))
    state = {
        entry.name: _to_torchs(np.asarray(flat[entry.path], np.float32)) for entry in entries(spec)
    }
    if spec.name.startswith("swin"):
        for layer in [n.removesuffix("logit_scale") for n in state if n.endswith("logit_scale")]:
            state[f"{layer}relative_coords_table"] = swin.relative_coordinates()
            state[f"{layer}relative_position_index"] = swin.relative_index()
    return state


def _of_family(table: Mapping[str, Any], architecture: str, default: Any) -> Any:
    """The entry whose key is the longest beginning of the architecture's name."""
    fitting = [key for key in table if architecture.startswith(key)]
    return table[max(fitting, key=len)] if fitting else default


def _substitute(name: str, substitutions: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in substitutions:
        name = re.sub(pattern, replacement, name)
    return name


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """torch's shape of an array of ours: HWIO to OIHW, (in, out) to (out, in)."""
    if len(shape) == 4:
        return (shape[3], shape[2], shape[0], shape[1])
    return shape[::-1] if len(shape) == 2 else shape


def _to_torchs(array: np.ndarray) -> np.ndarray:
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
    return np.ascontiguousarray(array.transpose(axes) if axes else array)


def _to_ours(array: np.ndarray) -> np.ndarray:
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim)
    return np.ascontiguousarray(array.transpose(axes) if axes else array)


def _cut_head(
    state: Mapping[str, np.ndarray], spec: ModelSpec, classes: Sequence[int]
) -> dict[str, np.ndarray]:
    """Keeps the rows `classes` of the last layer's weight and bias."""
    if len(classes) != spec.num_classes:
        raise UserError(
            f"{len(classes)} classes of the head are to be kept, but {spec.name} is to have "
            f"{spec.num_classes}; list one class of the weights for each class of the data."
        )
    cut = dict(state)
    for name in (f"{head_name(spec.name)}.{leaf}" for leaf in ("weight", "bias")):
        if name not in state:
            continue  # `_check` names it as missing
        rows = len(state[name])
        absent = [c for c in classes if not 0 <= c < rows]
        if absent:
            raise UserError(
                f"The weights have classes 0 to {rows - 1}, but {_listed(absent)} are to be kept; "
                f"list only classes that they have."
            )
        cut[name] = state[name][np.asarray(classes, int)]
    return cut


def _check(state: Mapping[str, np.ndarray], expected: Sequence[Entry], spec: ModelSpec) -> None:
    """Compares names and shapes."""
    known = {entry.name for entry in expected}
    missing = [entry.name for entry in expected if entry.name not in state]
    extra = [name for name in state if name not in known]
    misshapen = [
        f"{entry.name} ({_shape(np.shape(state[entry.name]))} instead of {_shape(entry.shape)})"
        for entry in expected
        if entry.name in state and np.shape(state[entry.name]) != entry.shape
    ]
    faults = [
        f"{what} {_listed(names)}"
        for what, names in (
            ("missing", missing),
            ("unexpected", extra),
            ("of another shape", misshapen),
        )
        if names
    ]
    if faults:
        raise UserError(
            f"The weights are not those of a {spec.name} with {spec.num_classes} classes for "
            f"{spec.image_size} px images of {spec.channels} channels: {'; '.join(faults)}."
        )


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(str(name) for name in names)


def _shape(shape: Sequence[int]) -> str:
    return "x".join(str(s) for s in shape) or "scalar"
