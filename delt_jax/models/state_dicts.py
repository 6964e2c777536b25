"""Finds the state dict in what people save: wrappers and prefixes of tools are taken off.

Where a file has moving averages (EMA) beside the plain weights, the averages are taken, as timm
takes them for evaluation. An average of the parameters alone is completed with the plain running
statistics, as such averages are used.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from delt_jax.models.torch_objects import Placeholder, RefusedPickleError, Tensor
from delt_jax.store.foreign import ForeignFileError

# In the order in which they are looked for.
_WRAPPERS = (
    *("model", "state_dict", "model_state_dict", "model_state", "net", "network", "module"),
    *("net_state_dict", "network_state_dict", "model_dict", "weights", "params", "shadow"),
)
_AVERAGES = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model"),
    *("ema_model_state_dict", "ema_net", "net_ema", "ema", "ema_weights", "params_ema"),
    *("averaged_model", "swa_model", "swa_state_dict", "model_swa"),
)
_PREFIXES = ("module", "model", "net", "network", "backbone", "encoder")
# Of wrappers around single modules: torch.compile, FSDP, activation checkpoints.
_ANYWHERE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_COUNTERS = ("n_averaged", "num_updates", "decay")  # of averages, beside the weights
_OTHERS = ("optimizer", "optim", "scheduler", "scaler", "callbacks", "loops", "hyper_parameters")


class StateDict(NamedTuple):
    """Tensors by torch's names, and a sentence about a choice that was made; empty without one."""

    tensors: dict[str, Any]
    note: str = ""


# Dictionaries that were looked at, with what was found, by their identity.
_Seen = dict[int, tuple[Any, StateDict | None]]


def find(content: Any) -> StateDict:
    """Finds the state dict.

    Args:
      content: of a file: a state dict, or dictionaries around one.

    Raises:
      RefusedPickleError: if the weights are anything but tensors.
      ForeignFileError: if there are none; the message begins with a verb.
    """
    found = _find(content, {})
    if found is None:
        raise _without_tensors(content)
    return found


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _find(content: Any, seen: _Seen) -> StateDict | None:
    """The state dict in a content; None if there is none."""
    if not isinstance(content, dict):
        return None
    if id(content) not in seen:
        seen[id(content)] = content, None  # while it is looked at: it may hold itself
        seen[id(content)] = content, _find_unseen(content, seen)
    return seen[id(content)][1]


def _find_unseen(content: dict[Any, Any], seen: _Seen) -> StateDict | None:
    inner = _in_wrappers(content, seen)
    if inner is not None:
        return inner
    tensors = {str(name): value for name, value in content.items() if _is_tensor(value)}
    if not [name for name in tensors if name not in _COUNTERS]:
        return _only_one(content, seen)
    odd = [value for value in content.values() if isinstance(value, Placeholder)]
    unread = [value.name for value in odd if value.name.startswith("torch.")]
    if unread:  # a sparse or quantized tensor, say
        raise RefusedPickleError(unread[0])
    return _without_prefixes(tensors, seen)


def _in_wrappers(content: Mapping[Any, Any], seen: _Seen) -> StateDict | None:
    """The state dict under one of the known names, averages first."""
    plain = _first(content, _WRAPPERS, seen)
    average = _first(content, _AVERAGES, seen)
    if average is None:
        return None if plain is None else plain[1]
    name, averaged = average
    if plain is None:
        note = f"the moving average of the weights ({name}) is taken: it is all that the file has"
        return StateDict(averaged.tensors, averaged.note or note)
    note = f"the moving average of the weights ({name}) is taken, not {plain[0]} beside it"
    state = averaged.tensors
    added = [k for k in plain[1].tensors if k not in state]
    if added and set(state) < set(plain[1].tensors):
        state = {**plain[1].tensors, **state}
        note += f"; {len(added)} arrays that it lacks, such as {added[0]}, are the plain ones"
    return StateDict(state, note)


def _first(
    content: Mapping[Any, Any], names: Sequence[str], seen: _Seen
) -> tuple[str, StateDict] | None:
    """The first of some names that holds a state dict, and the state dict."""
    for name in names:
        found = _find(content.get(name), seen)
        if found is not None:
            return name, found
    return None


def _only_one(content: Mapping[Any, Any], seen: _Seen) -> StateDict | None:
    """The state dict under an unknown name, if there is exactly one."""
    found = [
        _find(value, seen)
        for name, value in content.items()
        if isinstance(value, dict) and not str(name).startswith(_OTHERS)
    ]
    states = [state for state in found if state is not None]
    return states[0] if len(states) == 1 else None


def _without_prefixes(tensors: dict[str, Any], seen: _Seen) -> StateDict:
    """Names as the network has them.

    A prefix goes where all names have it. Where they have those of plain weights and of averages,
    these are taken for two state dicts.
    """
    tensors = {name: value for name, value in tensors.items() if name not in _COUNTERS}
    for part in _ANYWHERE:
        tensors = _without(tensors, part, anywhere=True)
    heads = {name.partition(".")[0] if "." in name else "" for name in tensors}
    plain, averages = heads & set(_PREFIXES), heads & set(_AVERAGES)
    if heads == plain | averages and len(plain) <= 1:
        groups: dict[str, dict[str, Any]] = {head: {} for head in heads}
        for name, value in tensors.items():
            head, _, rest = name.partition(".")
            groups[head][rest] = value
        if averages:
            renamed = {"model" if head in plain else head: g for head, g in groups.items()}
            found = _in_wrappers(renamed, seen)
            if found is not None:
                return found
        if len(groups) == 1:
            return _without_prefixes(next(iter(groups.values())), seen)
    return StateDict(_without(tensors, "module.", anywhere=False))


def _without(tensors: dict[str, Any], part: str, anywhere: bool) -> dict[str, Any]:
    """Tensors by names without a part of them, wherever it is or only at the beginning."""
    renamed = {
        name.replace(part, "") if anywhere else name.removeprefix(part): value
        for name, value in tensors.items()
    }
    if len(renamed) != len(tensors):
        raise ForeignFileError(f"holds some tensors twice, with and without {part!r}")
    return renamed


def _without_tensors(content: Any) -> ForeignFileError:
    """Why a content has no state dict."""
    values = [content]
    if isinstance(content, dict):
        values = [content.get(n) for n in (*_WRAPPERS, *_AVERAGES)] + list(content.values())
    for value in values:
        if isinstance(value, Placeholder):
            return RefusedPickleError(value.name)
    if not isinstance(content, dict) or not content:
        return ForeignFileError(
            f"holds a {type(content).__name__} without tensors instead of a state dict; save "
            f"model.state_dict()"
        )
    names = ", ".join(str(name)[:60] for name in list(content)[:10])
    return ForeignFileError(
        f"is no state dict: {names} are not tensors; save "
        f'model.state_dict(), or {{"state_dict": ...}} around it'
    )
