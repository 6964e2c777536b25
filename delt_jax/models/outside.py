"""Models from outside this package: ordinary Flax modules, checked before anything is trained.

A plug-in is a class of modules, or a function of a `ModelSpec` that returns a module. The module is
called as ``model(images, train)`` with normalised images float32 [B, S, S, C] and returns logits
float32 [B, classes]. Its BatchNorms are `flax.linen.BatchNorm`; what recovery reads of them, and of
the last `flax.linen.Dense`, is tapped from outside (`delt_jax.models.tap`).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from delt_jax.core import plugins
from delt_jax.errors import UserError
from delt_jax.models import tap
from delt_jax.models.spec import ModelSpec

_KEPT = ("params", "batch_stats")  # collections of variables that are stored


def create(spec: ModelSpec, found: Any) -> nn.Module:
    """The module of a plug-in.

    Args:
      spec: of the model.
      found: class or function that the spec's name stands for.

    Raises:
      UserError: saying what is not as it must be.
    """
    plugins.checked(plugins.MODELS, spec.name, found, Callable, "a Flax module or a function")
    return _create(spec, found)


@functools.lru_cache(maxsize=64)
def _create(spec: ModelSpec, found: Callable[..., Any]) -> nn.Module:
    if isinstance(found, type) and issubclass(found, nn.Module):
        model = plugins.call(plugins.MODELS, spec.name, lambda: found(**_arguments(spec, found)))
    else:
        model = plugins.call(plugins.MODELS, spec.name, found, spec)
    plugins.checked(plugins.MODELS, spec.name, model, nn.Module, "a flax.linen.Module")
    _check(spec, model)
    return model


def _arguments(spec: ModelSpec, found: type[nn.Module]) -> dict[str, Any]:
    """Fields of a class of modules that a specification fills.

    Raises:
      UserError: if it has no field for what is asked for.
    """
    fields = {field.name for field in dataclasses.fields(found)}
    wanted: dict[str, Any] = {"num_classes": spec.num_classes}
    if spec.width:
        wanted["width"] = spec.width
    if spec.dtype != "float32" or "dtype" in fields:
        wanted["dtype"] = jnp.dtype(spec.dtype)
    missing = [name for name in wanted if name not in fields]
    if missing:
        raise UserError(
            f"The model {spec.name!r} has no field {missing[0]!r}, but is to be built with "
            f"{missing[0]} {wanted[missing[0]]}; add the field, or make the plug-in a function of "
            f"a ModelSpec."
        )
    return wanted


def _check(spec: ModelSpec, model: nn.Module) -> None:
    """Checks by shapes alone that a module is a classifier as the rest of this package needs it.

    Raises:
      UserError: saying in what it is none.
    """
    image = jax.ShapeDtypeStruct((2, spec.image_size, spec.image_size, spec.channels), jnp.float32)

    def passes(key, images):
        variables = model.init(key, images, train=False)
        kept = {name: variables[name] for name in _KEPT if name in variables}
        logits, features = tap.logits_and_features(model, kept, images)
        if "batch_stats" in kept:
            tap.apply_tapped(model, kept, images)
        trained, _ = model.apply(
            kept, images, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        return logits, features, trained

    answers = plugins.call(
        plugins.MODELS, spec.name, jax.eval_shape, passes, jax.random.key(0), image
    )
    for given in (answers[0], answers[2]):
        if (given.shape, given.dtype) != ((2, spec.num_classes), jnp.float32):
            raise UserError(
                f"The model {spec.name!r} must return logits float32 [B, {spec.num_classes}], but "
                f"of two images it returns {given.dtype} {list(given.shape)}."
            )
    if answers[1] is None:
        raise UserError(
            f"The model {spec.name!r} does not end in an nn.Dense, whose input its features would "
            f'be; name them in it by self.sow("features", "pooled", features), [B, D] each.'
        )


@functools.lru_cache(maxsize=64)
def last_layer(model: nn.Module, spec: ModelSpec) -> tuple[str, ...]:
    """Path of a model's last Dense in its variables.

    Raises:
      UserError: if it has none.
    """
    paths: list[tuple[str, ...]] = []

    def note(module: nn.Module, x: Any) -> None:
        if isinstance(module, nn.Dense):
            paths.append(module.path)

    def passes(key, images):
        variables = model.init(key, images, train=False)
        kept = {name: variables[name] for name in _KEPT if name in variables}
        return tap.logits_and_features(model, kept, images, note)

    image = jax.ShapeDtypeStruct((1, spec.image_size, spec.image_size, spec.channels), jnp.float32)
    jax.eval_shape(passes, jax.random.key(0), image)
    if not paths:
        raise UserError(
            f"The model {spec.name!r} has no nn.Dense, so it cannot be fine-tuned: nothing says "
            f"which is its last layer."
        )
    return paths[-1]
