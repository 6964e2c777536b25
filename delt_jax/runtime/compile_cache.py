"""Compiled programs: kept on disk over runs, and let go where many runs share a process."""

import os
from pathlib import Path

import jax


def use() -> None:
    """Keeps what takes a second or more to compile in the user's cache folder.

    JAX's own JAX_COMPILATION_CACHE_DIR chooses another folder, and
    JAX_ENABLE_COMPILATION_CACHE=false none. A folder that cannot be written only costs time.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(folder()))


def let_go() -> None:
    """Frees the programs in memory; what is asked for again comes from the folder or is compiled.

    On CPU every program takes hundreds of memory mappings, several teachers' some thousands, and
    Linux gives a process 65,530: without this, a process of many runs dies in a compilation.
    """
    jax.clear_caches()


def folder() -> Path:
    """Where they are kept: $XDG_CACHE_HOME/delt_jax/compiled, by default below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "delt_jax" / "compiled"
