"""The ranking on disk: one CSV row per training image, and a manifest with its hash."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.recovery.selection import Ranking
from delt_jax.store import artefact, files, regular

TABLE = "ranking.csv"
MANIFEST = "ranking.json"
_COLUMNS = ("index", "name", "label", "class_name", "probability")


def write(
    folder: Path,
    ranking: Ranking,
    names: Sequence[str],
    class_names: Sequence[str],
    manifest: dict[str, Any],
) -> None:
    """Writes ranking.csv, then the manifest that makes it valid."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    rows = zip(names, ranking.labels, ranking.probabilities, strict=True)
    for i, (name, label, p) in enumerate(rows):
        writer.writerow((i, name, label, class_names[label], repr(float(p))))
    content = table.getvalue().encode()
    files.write_bytes(folder / TABLE, content)
    described = {
        **manifest,
        "class_names": list(class_names),
        "hash": files.content_hash(content),
    }
    artefact.seal(folder / MANIFEST, described, {TABLE: folder / TABLE})


def read(folder: Path, teacher_hash: str) -> Ranking:
    """Reads what `write` wrote.

    Args:
      folder: the work directory.
      teacher_hash: hash of the teacher that the ranking must have been made with.

    Raises:
      UserError: if the table is missing or was made with another teacher.
      DamagedArtefact: if table or manifest were changed since they were written.
    """
    try:
        manifest = artefact.read(folder / MANIFEST, MANIFEST, "rank")
    except FileNotFoundError as e:
        fault = f"{folder / MANIFEST} is missing"
        raise DamagedArtefact(folder / MANIFEST, fault, "rank") from e
    if manifest["inputs"]["teacher"] != teacher_hash:
        raise UserError(f"{folder / TABLE} is another teacher's; run the rank stage again.")
    try:
        with regular.open_file(folder / TABLE) as f:
            content = f.read()
    except OSError as e:
        why = "is missing" if isinstance(e, FileNotFoundError) else f"cannot be read: {e.strerror}"
        raise DamagedArtefact(folder / TABLE, f"{folder / TABLE} {why}", "rank") from e
    if files.content_hash(content) != manifest["hash"]:
        fault = f"{folder / TABLE} was changed since it was written"
        raise DamagedArtefact(folder / TABLE, fault, "rank")
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"))))
    return Ranking(
        labels=np.array([int(r["label"]) for r in rows], np.int32),
        probabilities=np.array([float(r["probability"]) for r in rows], np.float32),
    )
