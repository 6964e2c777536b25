"""Leaving out the files that cannot be read, by the setting `data.unreadable`."""

from pathlib import Path

import numpy as np

from delt_jax.core.progress import progress
from delt_jax.data import held
from delt_jax.data.source import EncodedExamples, Readable
from delt_jax.data.stream import batches

_BATCH = 256
_NAMED = 5


def leave_out(
    examples: EncodedExamples, setting: str, content: str, cache: Path | None
) -> tuple[np.ndarray, tuple[str, ...], dict[str, np.ndarray]]:
    """Which examples stay.

    Args:
      examples: all files of a source.
      setting: "stop" checks nothing here, for reading stops at an unreadable file anyway;
        "skip" decodes every file once.
      content: what the examples are, as a hash; the outcome is kept under it.
      cache: where it may have been kept before.

    Returns:
      bool [N], a sentence about what is left out, if anything, and what is to be kept.
    """
    if setting == "stop":
        return np.ones(len(examples), bool), (), {}
    name = f"readable-{content}.npy"
    known = held.load(cache / name, (len(examples),)) if cache else None
    if known is None:
        known = _check(examples)
    bad = np.flatnonzero(np.asarray(known) == 0)
    notes: tuple[str, ...] = ()
    if len(bad):
        named = ", ".join(f"{examples.where}{examples.names[int(i)]}" for i in bad[:_NAMED])
        more = ", ..." if len(bad) > _NAMED else ""
        notes = (f"{len(bad)} unreadable files are left out: {named}{more}",)
    return np.asarray(known) == 1, notes, {name: np.asarray(known)}


def _check(examples: EncodedExamples) -> np.ndarray:
    files = Readable(examples.encoded, examples.labels, examples.names, examples.workers)
    outcomes = []
    with progress(len(files), "check files", "image") as bar:
        for _, outcome in batches(files, _BATCH):
            outcomes.append(outcome)
            bar.update(len(outcome))
    return np.concatenate(outcomes)
