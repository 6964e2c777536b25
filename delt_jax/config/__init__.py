"""Config files fill a `ConfigDict`; from_config() checks it and makes a `Recipe` of it."""

import dataclasses
from typing import Any

import ml_collections

from delt_jax.config import methods, paths
from delt_jax.config.ranges import validate
from delt_jax.core import plugins
from delt_jax.core.spelling import nearest
from delt_jax.errors import UserError
from delt_jax.recipe import SETTINGS, Recipe
from delt_jax.recipe.data import lists_classes
from delt_jax.recipe.fields import Setting

# Settings that name what is read, here or in an object store: paths, or names that are taken for
# paths where there is such a file.
_READ = (
    "data.path",
    "data.classes",
    "teacher.weights",
    "teacher.others",
    "select.pictures",
    "select.set",
    "relabel.teachers",
    "report.second_teacher",
)
# Settings that name what is written, and what to do instead of giving a URL.
_WRITTEN = {
    "evaluate.scores_folder": "runs write there in turns; name a local folder, or one that all "
    "hosts share",
}
_PLURALS = {str: "names", int: "whole numbers", float: "numbers"}


def default_config() -> ml_collections.ConfigDict:
    """All settings at their defaults, locked, for a config file to start from."""
    config = ml_collections.ConfigDict(_tree(Recipe()))
    config.lock()
    return config


def _tree(recipe: Any, prefix: str = "") -> dict[str, Any]:
    """Settings as nested dicts; one that is None by default keeps the type that it may take."""
    tree: dict[str, Any] = {}
    for f in dataclasses.fields(recipe):
        value = getattr(recipe, f.name)
        if dataclasses.is_dataclass(value):
            tree[f.name] = _tree(value, f"{prefix}{f.name}.")
        elif value is None:
            kind = SETTINGS[prefix + f.name].kind
            tree[f.name] = ml_collections.config_dict.placeholder(kind)
        else:
            tree[f.name] = value
    return tree


def vary(
    config: ml_collections.ConfigDict,
    variants: str,
    presets: dict[str, dict[str, Any]],
    file: str,
) -> None:
    """Applies the text after the colon in --config=FILE:VARIANTS, e.g. "ipc10,cda,folder=/data/x".

    Args:
      config: changed in place.
      variants: names with commas between them: presets, one method, "ipcN" for N images per
        class, "folder=PATH" for images in folders, and "protocol=NAME" to train students by a
        protocol instead of as the method's authors do. The method is applied last, wherever it
        stands; what it sets of `learn` waits until the images per class are known.
      presets: settings by the preset's name, e.g. {"ipc10": {"ipc": 10}}.
      file: the config file, its `__file__`. Methods are the files methods/NAME.py beside it, each
        with a function `settings(data)` (see docs/methods.md), and then delt_jax's own.

    Raises:
      UserError: for a name that is none of these, or for two methods.
    """
    for name in variants.split(","):
        plugins.allow(plugins.METHODS, name)
    known = methods.find(file)
    names = methods.parted(variants, {*presets, *known})
    for variant in names:
        if variant.startswith(methods.FOLDER):
            path = variant.removeprefix(methods.FOLDER)
            config.update_from_flattened_dict({"data.name": "folder", "data.path": path})
        elif variant in presets:
            config.update_from_flattened_dict(presets[variant])
        elif (ipc := methods.IPC.fullmatch(variant)) is not None:
            config.ipc = int(ipc[1])
        elif variant not in known and methods.LIKE_IPC.fullmatch(variant):
            raise UserError(
                f"{variant!r} is no number of images per class; ipcN takes a whole number from 1, "
                f"as ipc10."
            )
        elif variant not in known and not variant.startswith(methods.PROTOCOL):
            hint = nearest(variant, [*presets, *known])
            raise UserError(
                f"{variant!r} is no variant of this recipe{hint} It has the presets "
                f"{', '.join(presets) or '(none)'}, the methods {', '.join(known)}, "
                f"ipcN, folder=PATH and protocol=NAME."
            )
    _, settings = methods.chosen(names, file, methods.kind_of(config))
    early = {name: s.value for name, s in settings.items() if not methods.is_late(name)}
    config.update_from_flattened_dict(early)


def from_config(config: ml_collections.ConfigDict) -> Recipe:
    """Checks a config's names, types and ranges and freezes it.

    Raises:
      UserError: names the first setting that is unknown, mistyped or out of range.
    """
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(
            f"get_config() must return a ConfigDict made by delt_jax.config.default_config(), "
            f"not {type(config).__name__}."
        )
    recipe = _build(Recipe, config, "")
    validate(recipe)
    return recipe


def _build(cls: type, config: ml_collections.ConfigDict, prefix: str):
    """An instance of a recipe's dataclass; settings that the config lacks keep their defaults."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name in config:
        if name not in fields:
            hint = nearest(prefix + name, list(SETTINGS))
            raise UserError(f"There is no setting {prefix}{name}{hint}")
    values = {}
    for name, field in fields.items():
        if name not in config:
            continue
        full, value = prefix + name, config[name]
        if full in SETTINGS:
            values[name] = typed(full, value, SETTINGS[full])
        elif isinstance(value, ml_collections.ConfigDict):
            values[name] = _build(field.type, value, f"{full}.")  # type: ignore[arg-type]
        else:
            raise UserError(f"{full} is a group of settings, not a value: {value!r}.")
    return cls(**values)


def typed(name: str, value: Any, setting: Setting) -> Any:
    """A setting's value, lists as tuples and whole numbers as floats where those are wanted.

    Raises:
      UserError: if it has another type.
    """
    if value is None and setting.default is None:
        return None
    if setting.kind is tuple:
        return _typed_tuple(name, value, setting)
    if setting.kind is float and type(value) is int:
        return float(value)
    if type(value) is not setting.kind:
        raise UserError(
            f"{name} must be of type {setting.kind.__name__}, but is {value!r} "
            f"({type(value).__name__})."
        )
    return _expanded(name, str(value)) if name in (*_READ, *_WRITTEN) else value


def _expanded(name: str, text: str) -> str:
    """A path as `paths` has it; names on the Hugging Face Hub and the like stay."""
    if name in _WRITTEN:
        return paths.expand_local(text, name, _WRITTEN[name])
    is_listed = name == "data.classes" and lists_classes(text)
    kinds = {"teacher.weights": ("hf:", "pkg:"), "data.path": ("hf:",)}.get(name, ())
    is_named = text.startswith(tuple(kinds)) and "://" not in text
    return text if is_named or is_listed else paths.expand(text, name)


def _typed_tuple(name: str, value: Any, setting: Setting) -> tuple[Any, ...]:
    element: Any = setting.element
    wanted = (int, float) if element is float else element
    good = isinstance(value, tuple | list) and all(
        isinstance(v, wanted) and not isinstance(v, bool) for v in value
    )
    if not good:
        raise UserError(f"{name} must be a tuple of {_PLURALS[element]}, not {value!r}.")
    if element is str and setting.split:  # a flag's a,b arrives as one string
        value = tuple(part.strip() for v in value for part in v.split(","))
    if name in (*_READ, *_WRITTEN):
        return tuple(_expanded(name, str(v)) for v in value)
    return tuple(element(v) for v in value)
