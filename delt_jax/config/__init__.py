"""The border between config files, which fill a `ConfigDict`, and the `Recipe` of a run."""

import dataclasses
import difflib
import runpy
import types
from pathlib import Path
from typing import Any, get_args, get_type_hints

import ml_collections

from delt_jax.config.ranges import validate
from delt_jax.errors import UserError
from delt_jax.recipe import Recipe, flatten

# What tuples hold, where it is not names.
_ELEMENTS: dict[str, tuple[type, str]] = {
    "data.mean": (float, "numbers"),
    "data.std": (float, "numbers"),
    "teacher.head_classes": (int, "whole numbers"),
    "evaluate.learning_rates": (float, "numbers"),
    "evaluate.smaller": (int, "whole numbers"),
}


def default_config() -> ml_collections.ConfigDict:
    """All settings at their defaults, locked: what a config file starts from."""
    config = ml_collections.ConfigDict(_tree(Recipe()))
    config.lock()
    return config


def _tree(recipe: Any) -> dict[str, Any]:
    """Settings as nested dicts; what is None by default keeps the type that it may take."""
    tree = {}
    for f in dataclasses.fields(recipe):
        value = getattr(recipe, f.name)
        if dataclasses.is_dataclass(value):
            tree[f.name] = _tree(value)
        elif value is None:
            tree[f.name] = ml_collections.config_dict.placeholder(_type(recipe, f.name))
        else:
            tree[f.name] = value
    return tree


def _type(recipe: Any, name: str) -> type:
    """Of a field, without the None that it may be."""
    hint = get_type_hints(type(recipe))[name]
    return get_args(hint)[0] if isinstance(hint, types.UnionType) else type(getattr(recipe, name))


def vary(
    config: ml_collections.ConfigDict,
    variants: str,
    rows: dict[str, dict[str, Any]],
    file: str,
) -> None:
    """Applies what follows the colon in --config=FILE:VARIANTS, e.g. "ipc10,cda,folder=/data/x".

    Args:
      config: changed in place.
      variants: names parted by commas: rows, a method, and "folder=PATH" for images in folders;
        in any order, the method changes what the others make.
      rows: settings by the name of a row, e.g. {"ipc10": {"ipc": 10}}.
      file: the config file, its `__file__`. The methods are the methods/NAME.py beside it, each
        with a function `apply(config)` that changes settings (see docs/methods.md).

    Raises:
      ValueError: for a name that is none of these, or two methods at once.
    """
    methods = {path.stem: path for path in sorted(Path(file).parent.glob("methods/*.py"))}
    names = variants.split(",")
    if len(several := [name for name in names if name in methods]) > 1:
        raise ValueError(f"{' and '.join(several)} are methods; name one of them.")
    for variant in sorted(filter(None, names), key=methods.__contains__):
        if variant.startswith("folder="):
            path = variant.removeprefix("folder=")
            config.update_from_flattened_dict({"data.name": "folder", "data.path": path})
        elif variant in rows:
            config.update_from_flattened_dict(rows[variant])
        elif variant in methods:
            _apply(methods[variant], config)
        else:
            hint = nearest(variant, [*rows, *methods])
            raise ValueError(
                f"{variant!r} is no variant of this recipe{hint} It has the rows "
                f"{', '.join(rows) or '(none)'}, the methods {', '.join(methods) or '(none)'}, and "
                f"folder=PATH."
            )


def _apply(method: Path, config: ml_collections.ConfigDict) -> None:
    """Runs a method's file and lets it change the config."""
    apply = runpy.run_path(str(method)).get("apply")
    if apply is None:
        raise ValueError(f"{method} has no function apply(config).")
    apply(config)


def nearest(name: str, known: list[str]) -> str:
    """How a sentence about a misspelt name ends: with a "did you mean", or just a full stop."""
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not match:  # the last part alone, for `ierations` against `recover.iterations`
        tails = {k.rsplit(".", 1)[-1]: k for k in known}
        found = difflib.get_close_matches(name.rsplit(".", 1)[-1], list(tails), n=1, cutoff=0.7)
        match = [tails[f] for f in found]
    return f"; did you mean {match[0]}?" if match else "."


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
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name in config:
        if name not in fields:
            known = list(flatten(Recipe()))
            raise UserError(f"There is no setting {prefix}{name}{nearest(prefix + name, known)}")
    values = {}
    defaults = cls()
    for name in fields:
        if name not in config:
            continue  # the default holds
        default, value = getattr(defaults, name), config[name]
        if dataclasses.is_dataclass(default):
            if not isinstance(value, ml_collections.ConfigDict):
                raise UserError(f"{prefix}{name} is a group of settings, not a value: {value!r}.")
            values[name] = _build(type(default), value, f"{prefix}{name}.")
        else:
            values[name] = _typed(value, default, _type(defaults, name), prefix + name)
    return cls(**values)


def _typed(value: Any, default: Any, wanted: type, name: str) -> Any:
    if value is None and default is None:
        return None
    if wanted is tuple:
        of, wanted_name = _ELEMENTS.get(name, (str, "names"))
        numbers = (int, float) if of is float else of
        good = isinstance(value, tuple | list) and all(
            isinstance(v, numbers) and not isinstance(v, bool) for v in value
        )
        listed = name.startswith("evaluate.") or name in ("teacher.others", "recover.terms")
        if good and of is str and listed:  # a flag's a,b arrives as one string
            return tuple(part.strip() for v in value for part in v.split(","))
        if good:
            return tuple(of(v) for v in value)
        raise UserError(f"{name} must be a tuple of {wanted_name}, not {value!r}.")
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise UserError(
            f"{name} must be of type {wanted.__name__}, but is {value!r} ({type(value).__name__})."
        )
    return value
