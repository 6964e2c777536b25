"""Prints the page of all settings: python -m delt_jax.config.page > docs/settings.md."""

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

from delt_jax.recipe import REMOVED, SETTINGS, Recipe
from delt_jax.recipe.fields import RESULTS, SIDE_EFFECTS, Interval, OneOf, Setting

_PAGE = """\
# Settings
<!-- python -m delt_jax.config.page > docs/settings.md prints this page from delt_jax/recipe/. -->

A recipe file sets them as `config.recover.iterations = 2000`, a command line as
`--config.recover.iterations=2000`. Commas separate the entries of tuples:
`--config.evaluate.students=conv3,conv4`, `--config.recover.terms=class_bn=10,barycentre=1`,
`--config.evaluate.smaller=1,5`. Names of classes and folders, which may have commas, need quotes:
`--config.data.class_names="'cat','dog'"`.
A misspelt name, a value of another type or one out of range ends the run before it starts, with a
sentence that names the setting.

The tables have the defaults, which recipes and methods change. `None` stands for what the
[protocol](evaluation.md#protocols) says. Rare settings come last in their group.

When a setting changes, the stages whose results it affects run again, and then the stages that
read these results. The last column says what each setting affects directly:

{results}

No result is made again for a setting that only affects

{side_effects}

## The whole run
{run}

{groups}

## Removed settings
Manifests of older runs may name settings that are gone. They make nothing run again if they have
the value that all runs have now:

{removed}
"""
_KINDS = {bool: "bool", int: "whole number", float: "number", str: "text"}
_PLURALS = {int: "whole numbers", float: "numbers", str: "names"}


def page() -> str:
    """The page, in Markdown."""
    groups = {f.name: f.type for f in dataclasses.fields(Recipe) if f.name not in SETTINGS}
    top = {name: setting for name, setting in SETTINGS.items() if "." not in name}
    sections = [
        f"## `{group}`\n{inspect.getdoc(cls)}\n\n{_table(_of_group(group))}"
        for group, cls in groups.items()
    ]
    text = _PAGE.format(
        results=_list(RESULTS),
        side_effects=_list(SIDE_EFFECTS),
        run=_table(top),
        groups="\n\n".join(sections),
        removed="\n".join(f"- `{name}`: {_code(value)}" for name, value in REMOVED.items()),
    )
    return re.sub(r"docs/(\w+\.md)(?!`| prints)", r"[\1](\1)", text)


def _of_group(group: str) -> dict[str, Setting]:
    """A group's settings by their names within the group."""
    start = f"{group}."
    return {n.removeprefix(start): s for n, s in SETTINGS.items() if n.startswith(start)}


def _list(entries: dict[str, str]) -> str:
    return "\n".join(f"- **{name}**: {text}" for name, text in entries.items())


def _table(settings: dict[str, Setting]) -> str:
    lines = ["| setting | default | values | meaning | affects |", "|---|---|---|---|---|"]
    for name, setting in settings.items():
        values = values_in_words(setting, _code)
        cells = (f"`{name}`", _code(setting.default), values, setting.meaning)
        lines.append(f"| {' | '.join(cells)} | {', '.join(setting.affects)} |")
    return "\n".join(lines)


def _code(value: Any) -> str:
    """A value as Python writes it, strings in double quotes."""
    if isinstance(value, tuple):
        inner = ", ".join(_code(v).strip("`") for v in value)
        return f"`({inner}{',' * (len(value) == 1)})`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def values_in_words(setting: Setting, write: Callable[[Any], str]) -> str:
    """Type and allowed values of a setting.

    Args:
      setting: any.
      write: writes one value.
    """
    if setting.choices:
        listed = ", ".join(map(write, setting.choices))
        if isinstance(setting.allowed, OneOf) and setting.allowed.with_plugins:
            listed += ", or a [plug-in](extending.md)" if write is _code else ", or a plug-in"
        return f"some of {listed}" if setting.kind is tuple else listed
    kind = _PLURALS[setting.element] if setting.element else _KINDS[setting.kind]
    return f"{kind} {setting.allowed}" if isinstance(setting.allowed, Interval) else kind


if __name__ == "__main__":
    print(page(), end="")
