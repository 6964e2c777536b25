"""Reads the recipe that a text names, such as "configs/digits.py:cda"."""

import runpy

import ml_collections

from delt_jax.config import paths, recipes, sentences
from delt_jax.errors import UserError


def split(text: str) -> tuple[str, str]:
    """The file and the variants of a recipe, e.g. "A.py" and "cda" of "A.py:cda".

    Raises:
      UserError: if there is no such recipe.
    """
    name, _, variants = with_home(text).partition(":")
    return recipes.find(name), variants


def with_home(text: str) -> str:
    """The same recipe with `~` expanded, so that it can be read from anywhere."""
    return paths.expand_recipe(text, "--config")


def read(text: str) -> ml_collections.ConfigDict:
    """The settings of a recipe.

    Args:
      text: config file, and after a colon variants, which its `get_config` takes.

    Raises:
      UserError: one sentence on what is wrong with the file or the variants.
    """
    file, variants = split(text)
    try:
        get_config = runpy.run_path(file).get("get_config")
        if get_config is None:
            raise UserError(f"--config={file} has no function get_config().")
        config = get_config(*([variants] if variants else []))
    except UserError:
        raise
    except (Exception, SystemExit) as e:  # a config file may raise anything
        raise UserError(sentences.sentence(e)) from e
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError("get_config() in the --config file returned no ConfigDict.")
    return config
