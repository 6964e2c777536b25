"""Settings that are given beside a recipe: by name in a program, as text on a command line."""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from delt_jax.config import sentences, typed
from delt_jax.core.spelling import nearest
from delt_jax.errors import UserError
from delt_jax.recipe import SETTINGS


def check_name(name: str) -> None:
    """Raises a UserError for a misspelt setting, or one that comes too late beside a recipe."""
    if name not in SETTINGS:
        raise UserError(f"There is no setting {name}{nearest(name, list(SETTINGS))}")
    if name == "data.known_as":
        raise UserError(
            "data.known_as comes too late on the command line, as methods have read it; set it "
            "in a recipe."
        )


def check(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the settings' dotted names, in the types that the settings have.

    Raises:
      UserError: names the first setting that is unknown or mistyped.
    """
    values = {}
    for name, value in overrides.items():
        check_name(name)
        values[name] = typed(name, value, SETTINGS[name])
    return values


def apply(
    config: ml_collections.ConfigDict, overrides: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """A copy of a config with some settings changed.

    Args:
      config: stays as it is.
      overrides: values by dotted name, e.g. {"recover.iterations": 100}.

    Raises:
      UserError: names the first setting that is unknown or mistyped.
    """
    changed = ml_collections.ConfigDict(config.to_dict(), type_safe=False)
    for name, value in check(overrides).items():
        group, _, leaf = name.rpartition(".")
        if group and group not in changed:
            changed[group] = ml_collections.ConfigDict()
        (changed[group] if group else changed)[leaf] = value
    return changed


def as_flags(overrides: Mapping[str, Any]) -> list[str]:
    """The same settings as the command line takes them.

    Raises:
      UserError: names the first setting that is unknown or mistyped, or that no text can express.
    """
    flags = []
    for name, value in check(overrides).items():
        if value is None:
            raise UserError(f"{name} cannot be None here; leave it out, or set it in a recipe.")
        flags.append(f"--config.{name}={value}")
    return flags


def quoted(argument: str) -> str:
    """An argument whose list of texts ml_collections can read, such as --config.NAME=a=1,b=2.

    It takes lists that Python can evaluate, and one text in quotes; `typed` splits that.
    """
    match = re.fullmatch(r"(--?config\.([^=]*)=)(.*)", argument, re.DOTALL)
    setting = SETTINGS.get(match[2]) if match else None
    if not match or not setting or setting.kind is not tuple or not setting.split:
        return argument
    try:
        ast.literal_eval(match[3])
    except SyntaxError:
        return f"{match[1]}{match[3]!r}"
    except ValueError:  # names alone, which it takes for one text
        pass
    return argument


def parse(config: ml_collections.ConfigDict, flags: Sequence[str]) -> ml_collections.ConfigDict:
    """The config, changed by settings from a command line.

    Args:
      config: is changed in place.
      flags: --config.NAME=VALUE each.

    Raises:
      UserError: one sentence about the first thing that is wrong.
    """
    # Imported here: a program that gives no text needs no parser.
    from absl import flags as absl_flags
    from ml_collections import config_flags

    for flag in flags:
        check_name(flag.lstrip("-").partition("=")[0].removeprefix("config."))
    values, line = absl_flags.FlagValues(), ["delt_jax.main", *map(quoted, flags)]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=line)
        values(line)
    except Exception as e:  # parsers raise many types
        raise UserError(sentences.sentence(e)) from e
    return config
