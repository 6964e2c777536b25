"""Says whose each setting of a run is: its method's, its recipe's or the command line's."""

import functools
import itertools
import re
import runpy
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_collections

from delt_jax.config import methods, reading
from delt_jax.recipe import Recipe, flatten
from delt_jax.recipe.known import KNOWN

YOURS = "yours"
# Settings that are listed whoever sets them; others only where a method or the command line does.
_ALWAYS = (
    "ipc",
    "teacher.model",
    "teacher.others",
    "synthesis",
    "select.start",
    "recover.iterations",
    "recover.round_iterations",
    "recover.batch_size",
    "recover.layout",
    "recover.learning_rate",
    "recover.bn_weight",
    "recover.first_bn_multiplier",
    "recover.terms",
    "recover.milestone",
    "recover.min_scale",
    "recover.jitter",
    "recover.crop_padding",
    "recover.flip",
    "evaluate.protocol",
)
_WIDEST = 40  # characters of the column of values; longer ones reach beyond it


def of(command: str, recipe: Recipe) -> dict[str, str]:
    """Whose each setting is that matters, as a phrase, by dotted name in the settings' order.

    Args:
      command: line of the run, whose --config file is read again.
      recipe: of the run, complete.
    """
    given = _given(command)
    if "config" not in given:
        return {}
    file, variants = reading.split(given["config"])
    # As the recipe has it, before the command line's settings.
    config = runpy.run_path(file)["get_config"](*([variants] if variants else []))
    names = methods.parted(variants, methods.find(file))
    method, settings = methods.chosen(names, file, methods.kind_of(config))
    if recipe.synthesis == "learn":
        method = method or recipe.learn.method
        settings = settings | methods.of_learning(recipe.learn.method, _kind(config, recipe))
    yours = {name.removeprefix("config.") for name in given}
    yours |= {"evaluate.protocol" for name in names if name.startswith(methods.PROTOCOL)}
    found: dict[str, str] = {}
    for name, value in flatten(recipe).items():
        if _is_unread(name, recipe):
            continue
        if name in yours:
            found[name] = YOURS
        elif name in settings:
            found[name] = f"{method}, {settings[name]}"
        elif name in _ALWAYS:
            derived = ", derived from the images" if value != _at(config, name) else ""
            found[name] = f"recipe {Path(file).stem}{derived}"
    return found


def _kind(config: ml_collections.ConfigDict, recipe: Recipe) -> methods.DataKind:
    """The data as they are in the end, for what a method of learned sets publishes for them."""
    data = recipe.data
    known = replace(methods.kind_of(config), ipc=recipe.ipc, small=recipe.learn.small)
    size, channels = data.image_size or known.image_size, data.channels or known.channels
    return replace(known, image_size=size, channels=channels)


def _at(config: ml_collections.ConfigDict, name: str) -> Any:
    """The value of a setting by its dotted name."""
    value = functools.reduce(getattr, name.split("."), config)
    return tuple(value) if isinstance(value, list) else value


def _is_unread(name: str, recipe: Recipe) -> bool:
    """Whether a setting says nothing beside the others."""
    group = name.partition(".")[0]
    if recipe.synthesis == "learn" and group in ("select", "recover", "teacher"):
        return group != "teacher" or not recipe.needs_teacher
    if recipe.synthesis == "recover" and group in ("learn", "synthesis"):
        return True
    if not recipe.recover.iterations:
        return name.startswith("recover.") and name != "recover.iterations"
    return bool(recipe.recover.crop_padding) and name == "recover.min_scale"


def lines(command: str, recipe: Recipe) -> list[str]:
    """A table of the settings that matter, their values, and whose they are.

    Args:
      command: line of the run; without one nobody knows, and there is no table.
      recipe: of the run, complete.
    """
    found = of(command, recipe)
    if not found:
        return []
    known = KNOWN.get(recipe.data.known_as)
    values = {name: _in_words(value) for name, value in flatten(recipe).items() if name in found}
    width = max(len(value) for value in values.values() if len(value) <= _WIDEST)
    return [
        f"settings, and whose they are, on {known.title if known else 'images of your own'}:",
        *(f"  {name:<28} {value:<{width}}  {found[name]}" for name, value in values.items()),
        "",
    ]


def _given(command: str) -> dict[str, str]:
    """Values of --config and --config.NAME on a command line, by name; "" where none is seen."""
    words = shlex.split(command)
    given = {}
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        flag = re.fullmatch(r"--?(?:no)?(config(?:\.[\w.]+)?)(=.*)?", word, re.DOTALL)
        if flag:
            given[flag[1]] = flag[2][1:] if flag[2] else following
    return given


def _in_words(value: Any) -> str:
    """A value as the command line takes it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
