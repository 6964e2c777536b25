"""What is still good of a damaged set, so that only the rest of it is recovered again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delt_jax.core.progress import say
from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.formats import distilled
from delt_jax.recovery.run import checkpoint, execution, loss_history
from delt_jax.recovery.run.plan import ExecutionPlan
from delt_jax.recovery.run.task import RecoveryTask
from delt_jax.recovery.starts import GIVEN, PATCHES
from delt_jax.store import artefact, files
from delt_jax.store.workdir import WorkDir, changes

LOSSES = "losses.npz"
_FOLDER = "distilled"


@dataclass(frozen=True)
class DamagedSet:
    """A set that was recovered from the same inputs, some files of which may be damaged.

    Attributes:
      folder: of the set.
      manifest: of the set, which is whole.
    """

    folder: Path
    manifest: dict[str, Any]

    def keep_starts(self, partial: Path) -> None:
        """Takes over patches of mosaics, or a plug-in's images, which may take long to find."""
        for name in (PATCHES, GIVEN):
            target = partial / name
            if artefact.is_intact(self.folder, name, self.manifest) and not target.exists():
                arrays = files.read_npz(self.folder / name, "recover")
                files.write_npz(target, seconds=0.0, **arrays)  # the set's seconds have them

    def keep_batches(self, task: RecoveryTask) -> None:
        """Takes over how the set was made, and the batches of which every image is intact."""
        made = self.manifest.get("execution", {})
        used = made.get("batches_per_device") or [1]
        # An older version had no sizes: its programs were exact.
        plan = {"sizes": ()} | made | {"batches_per_device": min(used)}
        if execution.read(task.partial) is None and set(plan) == set(ExecutionPlan.__annotations__):
            execution.write(task.partial, ExecutionPlan(**plan))
        if not artefact.is_intact(self.folder, LOSSES, self.manifest):
            return
        stored = files.read_npz(self.folder / LOSSES, "recover")
        names = [name for name, _ in task.settings.terms]
        losses = loss_history.columns(loss_history.of_columns(stored, names))
        work = [1 + batch.image_iterations_after(0) for batch in task.schedule]
        kept = 0
        for index, batch in enumerate(task.schedule):
            path = checkpoint.finished_batch(task.partial, index)
            images = distilled.read_intact(self.folder, self.manifest, batch.indices)
            if images is None or path.exists():
                continue
            files.write_npz_fast(
                path,
                images=images,
                seconds=self.manifest["cost_seconds"] * work[index] / sum(work),
                batches_per_device=np.array(used),
                **{name: values[index] for name, values in losses.items()},
            )
            kept += 1
        say(f"  {kept} of {len(task.schedule)} batches are intact and kept")


def find(workdir: WorkDir, inputs: dict[str, Any]) -> DamagedSet | None:
    """The set in a work directory, if it was made from these inputs and its files are listed."""
    manifest = workdir.manifest(f"{_FOLDER}/manifest.json")
    if manifest is None or "imported" in manifest or not artefact.lists_files(manifest):
        return None
    if changes(manifest["inputs"], inputs):
        return None
    return DamagedSet(workdir.path / _FOLDER, manifest)


def drop_damaged(task: RecoveryTask) -> None:
    """Deletes finished batches whose files are damaged, so that they are recovered again."""
    for index, batch in enumerate(task.schedule):
        path = checkpoint.finished_batch(task.partial, index)
        if not path.exists():
            continue
        try:
            stored = files.read_npz(path, "recover")
            if len(stored["images"]) == len(batch.indices):
                continue
        except (DamagedArtefact, KeyError, TypeError):
            pass
        say(f"  {path} is damaged; its batch starts anew")
        try:
            path.unlink()
        except OSError as e:
            raise UserError(f"{path} cannot be deleted: {e.strerror}.") from e
