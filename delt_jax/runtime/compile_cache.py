"""Compiled programs: cached on disk between runs, and freed where many runs share a process."""

import os
from pathlib import Path

import jax

from delt_jax.runtime import programs
from delt_jax.store import files, remote

MAPPINGS, MOST_MAPPINGS = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
_SHARE = 0.3  # of a process's mappings, beyond which a run might not end
_DIRECTORY = "JAX_COMPILATION_CACHE_DIR"
_LEAST_SECONDS = 0.2  # to compile; JAX keeps programs from one second on


def use() -> None:
    """Caches programs that take a fifth of a second or more to compile, in the user's cache folder.

    JAX's own JAX_COMPILATION_CACHE_DIR chooses another folder, perhaps in an object store,
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS another time, and
    JAX_ENABLE_COMPILATION_CACHE=false none. A program that has chosen a folder keeps it. A folder
    that cannot be written only costs time.

    Raises:
      UserError: for a URL that nothing here can read.
    """
    given = os.environ.get(_DIRECTORY, "")
    chosen = jax.config.values["jax_compilation_cache_dir"]
    if "://" in given:
        jax.config.update("jax_compilation_cache_dir", remote.checked(given, _DIRECTORY))
    elif _DIRECTORY not in os.environ and not chosen:
        jax.config.update("jax_compilation_cache_dir", str(folder()))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)


def free() -> None:
    """Frees all programs in memory; a later call loads them from the folder or compiles them.

    On a CPU a program takes hundreds of memory mappings, one with several teachers thousands, and
    Linux gives a process 65,530 (vm.max_map_count): a process of many runs would die compiling.
    """
    programs.free_all()
    jax.clear_caches()


def free_many() -> None:
    """As `free`, once programs take more memory mappings than leave room for another run."""
    try:
        most = int(MOST_MAPPINGS.read_text(encoding="ascii"))
        with MAPPINGS.open("rb") as f:
            taken = sum(1 for _ in f)
    except (OSError, ValueError):  # not Linux
        return
    if taken > _SHARE * most:
        free()


def folder() -> Path:
    """The cache folder: $XDG_CACHE_HOME/delt_jax/compiled, by default below ~/.cache."""
    return files.user_cache() / "compiled"
