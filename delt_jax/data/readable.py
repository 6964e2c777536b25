"""Leaving out the files that cannot be read, by the setting `data.unreadable`."""

from pathlib import Path

import numpy as np

from delt_jax.core.progress import progress
from delt_jax.data import in_memory
from delt_jax.data.names import printable
from delt_jax.data.source import READS, TOO_LARGE, EncodedExamples, Readable
from delt_jax.data.stream import batches
from delt_jax.store.pictures import MOST_PIXELS

_BATCH = 256
_NAMED = 5  # files that the sentence lists


def leave_out(
    examples: EncodedExamples, setting: str, content: str, cache: Path | None
) -> tuple[np.ndarray, tuple[str, ...], dict[str, np.ndarray]]:
    """Tells which examples stay.

    Args:
      examples: all files of a source.
      setting: "stop" checks nothing here, for reading stops at an unreadable file anyway;
        "skip" decodes every file once.
      content: hash of what the examples are; names the file of the outcome.
      cache: folder where an earlier run may have written it.

    Returns:
      bool [N], true where an example stays; a sentence on the others, if there are any; and
      arrays to write into `cache`, by file name.
    """
    if setting == "stop":
        return np.ones(len(examples), bool), (), {}
    limit = examples.most_pixels
    name = f"readable-{content}{'' if limit == MOST_PIXELS else f'-{limit}'}.npy"
    outcome = in_memory.load(cache / name, (len(examples),)) if cache else None
    if outcome is None:
        outcome = _check(examples)
    outcome = np.asarray(outcome)
    bad = np.flatnonzero(outcome != READS)
    notes: tuple[str, ...] = ()
    if len(bad):
        names = (printable(examples.names[int(i)]) for i in bad[:_NAMED])
        named = ", ".join(f"{examples.where}{name}" for name in names)
        more = ", ..." if len(bad) > _NAMED else ""
        notes = (f"{len(bad)} unreadable files are left out: {named}{more}",)
        if large := int((outcome == TOO_LARGE).sum()):
            notes += (f"of these, {large} with more pixels than data.max_pixels, {limit:,}",)
    return outcome == READS, notes, {name: outcome}


def _check(examples: EncodedExamples) -> np.ndarray:
    """Decodes every file; uint8 [N], 1 where it worked."""
    e = examples
    files = Readable(e.encoded, e.labels, e.names, e.workers, e.most_pixels)
    outcomes = []
    with progress(len(files), "check files", "image") as bar:
        for _, some in batches(files, _BATCH):
            outcomes.append(some)
            bar.update(len(some))
    return np.concatenate(outcomes)
