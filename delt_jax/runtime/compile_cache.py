"""Compiled programs: cached on disk between runs, and freed where many runs share a process."""

import os
from pathlib import Path

import jax

from delt_jax.runtime import programs


def use() -> None:
    """Caches programs that take a second or more to compile, in the user's cache folder.

    JAX's own JAX_COMPILATION_CACHE_DIR chooses another folder, and
    JAX_ENABLE_COMPILATION_CACHE=false none. A folder that cannot be written only costs time.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(folder()))


def free() -> None:
    """Frees all programs in memory; a later call loads them from the folder or compiles them.

    On a CPU a program takes hundreds of memory mappings, one with several teachers thousands, and
    Linux gives a process 65,530 (vm.max_map_count): a process of many runs would die compiling.
    """
    programs.free_all()
    jax.clear_caches()


def folder() -> Path:
    """The cache folder: $XDG_CACHE_HOME/delt_jax/compiled, by default below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "delt_jax" / "compiled"
