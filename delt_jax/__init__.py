"""DELT dataset distillation in JAX: squeeze, rank, recover, relabel, evaluate, report."""

from __future__ import annotations

from delt_jax.errors import UserError

TYPE_CHECKING = False  # without an import: a command listens to signals only after this file
if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    import ml_collections

    from delt_jax.api import ComparisonResult, RunResult
    from delt_jax.formats.distilled import DistilledSet

__all__ = ["UserError", "compare_runs", "export_set", "load", "run"]
__version__ = "0.1.0"

# What the functions import, they import when they are called, so that this costs nothing.


def run(  # noqa: PLR0913 (the flags of the command; callers name them)
    config: ml_collections.ConfigDict | str | os.PathLike,
    workdir: str | os.PathLike,
    overrides: Mapping[str, Any] | None = None,
    stages: Sequence[str] = (),
    dry_run: bool = False,
    verify: bool = False,
    mirror: str = "",
) -> RunResult:
    """Runs the stages of a recipe, as `python -m delt_jax.main` does; see docs/python.md.

    Finished work is kept: the same call goes on where an earlier one, or the command, has stopped.

    Args:
      config: a recipe as --config takes it, such as "configs/digits.py:cda", or a ConfigDict that
        `delt_jax.config.default_config` began. It is not changed.
      workdir: folder that holds everything the run makes.
      overrides: values of settings by dotted name, e.g. {"recover.iterations": 100}; they win over
        the recipe's.
      stages: names of the stages to run; all if empty.
      dry_run: print the plan and its cost, and write nothing.
      verify: read and check every file that earlier runs have made, not only its size.
      mirror: place in an object store, such as "gs://bucket/run", where finished work is copied.

    Returns:
      Paths, scores and manifests of what is done, with `load()` for the distilled set.

    Raises:
      UserError: one sentence, for settings, data or folders that cannot work.
      KeyboardInterrupt: at a safe point after Ctrl-C, or SIGTERM in a script.
    """
    from delt_jax import api

    return api.run(config, workdir, overrides or {}, stages, dry_run, verify, mirror)


def compare_runs(  # noqa: PLR0913 (the flags of the command; callers name them)
    configs: Sequence[str | os.PathLike],
    workdir: str | os.PathLike,
    ipc: int | Sequence[int] = (),
    seeds: int = 0,
    overrides: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    keep_going: bool = False,
    mirror: str = "",
) -> ComparisonResult:
    """Runs every recipe at every number of images per class, as `python -m delt_jax.compare` does.

    Args:
      configs: recipes, each as `run` takes the name of one.
      workdir: folder that holds all runs and the comparison.
      ipc: numbers of images per class; the recipes' own if empty.
      seeds: students per row; 0 for what the recipes say.
      overrides: values of settings for all recipes, by dotted name.
      dry_run: print the runs and their cost, and write nothing.
      keep_going: after a run that fails, go on with the others.
      mirror: place in an object store where finished runs and tables are copied.

    Returns:
      Paths and scores of the runs that are finished, with `load(cell)` for their sets.

    Raises:
      UserError: one sentence, for what cannot work, before anything runs; or for the first run that
        fails, unless `keep_going`.
      KeyboardInterrupt: at a safe point after Ctrl-C, or SIGTERM in a script.
    """
    from delt_jax import api

    return api.compare_runs(
        configs, workdir, ipc, seeds, overrides or {}, dry_run, keep_going, mirror
    )


def export_set(  # noqa: PLR0913 (the flags of the command; callers name them)
    source: str | os.PathLike,
    to: str,
    out: str | os.PathLike = "",
    per_class: int = 0,
    quality: int = 0,
    class_names: Sequence[str] | str | os.PathLike = (),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    overwrite: bool = False,
    push: str = "",
    preprocessing: str | os.PathLike = "",
    factor: int = 1,
    rounds: bool = False,
    size: int = 0,
    mirrored: bool = False,
) -> Path:
    """Converts a distilled set, as `python -m delt_jax.export` does, and reads back the result.

    Args:
      source: a work directory or its distilled/ folder, an export, or a published set.
      to: name of a layout of docs/formats.md, such as "parquet"; "distilled" brings a set into a
        work directory.
      out: where to; beside what is read if empty.
      per_class: only the first so many images of every class; 0 for all.
      quality: of JPEG, for the layouts "folder", "named" and "new000"; 0 for lossless PNG.
      class_names: in label order, or a file of them, one a line, for sets without names.
      mean, std: of a set of normalised floats, one value or one per channel.
      overwrite: replace an earlier export.
      push: data set on the Hugging Face Hub that gets it, too, "owner/name"; for "parquet".
      preprocessing, factor, mirrored: as of `load`.
      rounds: whether float images become pixels, rounded and clipped.
      size: side in pixels that images are resized to, after they are cut square; 0 keeps theirs.

    Returns:
      The file or folder that was written.

    Raises:
      UserError: one sentence, for a set that is not understood, or a target that is in the way.
    """
    from delt_jax import api

    return api.export_set(
        source,
        to,
        out,
        per_class=per_class,
        quality=quality,
        class_names=class_names,
        mean=tuple(mean),
        std=tuple(std),
        overwrite=overwrite,
        push=push,
        preprocessing=preprocessing,
        factor=factor,
        rounds=rounds,
        size=size,
        mirrored=mirrored,
    )


def load(  # noqa: PLR0913 (what files may not say; callers name them)
    path: str | Path,
    class_names: Sequence[str] = (),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    preprocessing: str | Path = "",
    factor: int = 1,
    mirrored: bool = False,
) -> DistilledSet:
    """Loads a distilled set.

    Args:
      path: a work directory or its distilled/ folder, an export of delt_jax, or a set that
        others published in one of the layouts of docs/formats.md; here or in an object store.
      class_names: in label order, in place of the names that the layout has; without either
        the classes are called by their numbers.
      mean, std: that a set of normalised floats was made with, one value or one per channel.
      preprocessing: of a set of whitened floats, in place of these: a .npz with mean, std, matrix
        and centre, or a set that has it.
      factor: of a set of floats, images along a side of each stored one, where its file does not
        say it (IDC).
      mirrored: of a set of floats, whether students train on a mirrored copy of every image, too,
        where its file does not say it (RCIG's of colour images).

    Returns:
      images uint8 [N, H, W, C] and labels int32 [N], class by class and in order within a class,
      class_names, manifest, soft_labels (float32 logits [N, classes], or None), ipc, and
      per_class(k), the smaller set of the first k images of every class. Float images stay float32,
      and have a preprocessing, which maps pixels to their space, learned_labels and decoding, where
      there are any; rounded() makes pixels of them.

    Raises:
      UserError: one sentence on what is wrong with the path or the set.
    """
    from delt_jax import formats
    from delt_jax.formats.decoding import Decoding

    decoding = Decoding(factor, mirrored)
    return formats.load(path, class_names, mean, std, preprocessing, decoding)
