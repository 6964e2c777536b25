"""Evaluation protocols: named, complete recipes of how students train.

The same images score 21.3, 31.1 or 41.9 % under three recipes of the field, so a number means
something only beside its protocol. A protocol depends on architecture, number of classes, images
per class and image size. Settings of `evaluate` and `relabel` that are not None replace its values,
and are then printed beside its name.
"""

from collections.abc import Callable
from dataclasses import asdict, fields, replace

from delt_jax.augment.views import ViewSpec
from delt_jax.core import plugins
from delt_jax.errors import UserError
from delt_jax.labels.label_store import LabelPlan
from delt_jax.recipe import Recipe
from delt_jax.training import protocol as protocol_lib
from delt_jax.training import published_protocols
from delt_jax.training.protocol import EvalSetting, Protocol

__all__ = ["NAMES", "EvalSetting", "Protocol", "label_plan", "named", "resolve", "version"]

_PROTOCOLS: dict[str, Callable[[EvalSetting], Protocol]] = {
    "delt": published_protocols.delt,
    "sre2l": published_protocols.sre2l,
    "rded": published_protocols.rded,
    "delt_jax": published_protocols.delt_jax,
    "common": published_protocols.common,
    "dsa": published_protocols.dsa,
    "idc": published_protocols.idc,
    "frepo": published_protocols.frepo,
    "mtt": published_protocols.mtt,
    "ratbptt": published_protocols.ratbptt,
    "rcig": published_protocols.rcig,
}
NAMES = tuple(_PROTOCOLS)
# A protocol that comes to train otherwise gets a new version here; the others have version 1.
_VERSIONS: dict[str, int] = {"rcig": 2}


def version(name: str) -> int:
    """Version of a protocol, part of the identity of its scores."""
    if name in _PROTOCOLS:
        return _VERSIONS.get(name, 1)
    return plugins.version(plugins.PROTOCOLS, name)


def named(name: str, setting: EvalSetting) -> Protocol:
    """The protocol of a name, our own or a plug-in, for who is trained on what.

    Raises:
      UserError: if there is none, or a plug-in returns something else.
    """
    protocol_of = plugins.find(plugins.PROTOCOLS, name, _PROTOCOLS)
    if name in _PROTOCOLS:
        return protocol_of(setting)
    plugged = plugins.call(plugins.PROTOCOLS, name, protocol_of, setting)
    what = "a function that returns a delt_jax.training.protocols.Protocol"
    plugins.checked(plugins.PROTOCOLS, name, plugged, Protocol, what)
    for field, known in protocol_lib.KNOWN.items():
        if (has := getattr(plugged, field)) not in known:
            listed = ", ".join(known)
            raise UserError(f"The protocol {name!r} has {field} {has!r}, not one of {listed}.")
    return replace(plugged, name=name)


def resolve(recipe: Recipe, setting: EvalSetting, learning_rate: float | None = None) -> Protocol:
    """The protocol that a recipe names, with the recipe's own settings put into it.

    Args:
      recipe: complete (see `delt_jax.config.derive`).
      setting: who is trained on what.
      learning_rate: one of `evaluate.learning_rates`, or None for the protocol's.
    """
    plain = named(recipe.evaluate.protocol, setting)
    asked = {
        name: value
        for group in (recipe.relabel, recipe.evaluate)
        for name, value in asdict(group).items()
        if value is not None
    }
    asked["learning_rate"] = learning_rate or plain.learning_rate
    views = replace(plain.views, **_of(ViewSpec, asked))
    # Where flips are among DSA's operations, students without these have none.
    flip = recipe.data.flip and bool(views.dsa or not plain.views.dsa)
    views = replace(views, flip=flip)
    resolved = replace(plain, **_of(Protocol, asked), views=views)
    differ = [
        f"{name.replace('_', ' ')} {value or 'none'}"
        for before, after in ((plain, resolved), (plain.views, resolved.views))
        for name, value in asdict(after).items()
        if name not in ("views", "flip", "changed") and value != getattr(before, name)
    ]
    batch = min(resolved.batch_size, setting.num_classes * setting.ipc)
    return replace(resolved, batch_size=batch, changed=tuple(differ))


def label_plan(recipe: Recipe, setting: EvalSetting) -> LabelPlan:
    """Which views get stored labels: those that the recipe's protocol trains on.

    Args:
      recipe: complete (see `delt_jax.config.derive`).
      setting: that of the first student; the others learn from the same labels.
    """
    protocol, asked = resolve(recipe, setting), recipe.relabel
    return LabelPlan(
        seed=recipe.seed,
        epochs=asked.stored_epochs or protocol.epochs,
        num_images=setting.num_classes * setting.ipc,
        num_classes=setting.num_classes,
        form=asked.form,
        top_k=asked.top_k if asked.top_k < setting.num_classes else 0,
        temperature=protocol.temperature,
        views=protocol.views,
        group_size=protocol.batch_size,
        trained_epochs=protocol.epochs,
    )


def _of(kind: type, settings: dict) -> dict:
    """Those of the settings that are fields of a dataclass."""
    names = {f.name for f in fields(kind)}
    return {name: value for name, value in settings.items() if name in names}
