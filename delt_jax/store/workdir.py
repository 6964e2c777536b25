"""The work directory: its artefacts, their inputs, and the lock of the process that writes."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from delt_jax import recipe as recipe_lib
from delt_jax.core import stopping
from delt_jax.errors import DamagedArtefact, UserError
from delt_jax.recipe import Recipe
from delt_jax.store import artefact, files, locks
from delt_jax.store.log import MetricsLog

_FORMAT = "delt_jax work directory, version 1"
_NOT_A_SETTING = object()
# An input that older versions named also where nothing was made from it.
_NAMED_TOO_OFTEN = "ranking"
# Artefacts that are folders, with a file or folder that each has beside its manifest.
_FOLDERS = {
    "teacher": "weights.safetensors",
    "experts": "0000",
    "distilled": "images",
    "soft_labels": "logits.npz",
    "evaluation": "scores.json",
    "report": "report.html",
}
_FILES = ("config.json", "ranking.csv", "ranking.json", "summary.json")
_MARK = ".job-"
_SECONDS_OF_A_WRITE = 60  # of a score, which runs may share
_SECONDS_BETWEEN_LOOKS = 0.1


class WorkDir:
    """A run's folder.

    Every artefact is a folder (or, for the ranking, a file) with a manifest that records the
    stage's inputs: its settings and the hashes of earlier artefacts. Folder and manifest appear by
    one rename, so an artefact is complete if its manifest exists.
    """

    def __init__(self, path: str | Path, command: str = ""):
        """Points at a folder without touching it.

        Args:
          path: of the folder.
          command: command line of the run, printed beside its results.
        """
        self.path = Path(path).absolute()
        self.log = MetricsLog(None)
        self.command = command
        self._lock: Any = None

    def check(self) -> None:
        """Raises a UserError if the folder belongs to something else."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--workdir {self.path} is a file; choose a folder.")
        marker = self.path / "config.json"
        if not self.path.exists():
            return
        self._check_ours(marker)
        for name, part in _FOLDERS.items():
            folder = self.path / name
            files.check_replaceable(folder)
            linked = folder.is_symlink() and folder.is_dir()
            held = [p.name for p in folder.iterdir()] if linked else []
            if held and not {"manifest.json", part} & set(held):
                raise UserError(
                    f"{folder} is a symbolic link to a folder that is not delt_jax's (it has "
                    f"neither a manifest.json nor {part}); delete the link."
                )
        for folder in self.path.glob("teachers/*"):
            files.check_replaceable(folder)

    def _check_ours(self, marker: Path) -> None:
        """Raises a UserError if the folder belongs to something else."""
        try:
            # A run that was killed before its first config.json leaves these; anyone may take them.
            leftovers = [".lock"]
            # `delt_jax.export --to=distilled` puts a set here before the first run.
            if "imported" in (self.manifest("distilled/manifest.json") or {}):
                leftovers.append("distilled")
            names = [p.name for p in self.path.iterdir() if p.name not in leftovers]
            foreign = [name for name in names if not files.is_temporary_of(name, marker)]
            ours = files.read_object(marker).get("format") == _FORMAT
        except FileNotFoundError:
            ours = not foreign
        except (OSError, ValueError):
            ours = False
        if not ours:
            raise UserError(
                f"--workdir {self.path} holds files that are not a delt_jax run's (no valid "
                f"config.json); choose a new or empty folder."
            )

    def open(self, recipe: Recipe, logs: bool = True) -> None:
        """Creates the folder or goes on in it, locks it, and writes the recipe to config.json.

        Args:
          recipe: of the run, complete.
          logs: whether stages will run, which log metrics.

        Raises:
          UserError: if the folder is foreign, not writable, or in use by another process.
        """
        self.check()
        with files.disk_errors_as_user_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self._lock_out_others()
        self._clear_leftovers()
        settings = recipe_lib.flatten(recipe)
        files.write_json(self.path / "config.json", {"format": _FORMAT, "settings": settings})
        if logs:
            self.log = MetricsLog(self.path, recipe.writers, settings)

    def mark(self, token: str) -> None:
        """Leaves a mark, by which other processes of a job see that they have the same folder."""
        files.write_bytes(self._marked(token), b"")

    def is_marked(self, token: str) -> bool:
        """Whether the mark of another process is here."""
        return self._marked(token).exists()

    def unmark(self, token: str) -> None:
        """Deletes a mark."""
        self._marked(token).unlink(missing_ok=True)

    def _marked(self, token: str) -> Path:
        return self.path / f"{_MARK}{token}"

    def refresh(self) -> None:
        """Looks again at which files are there, and in the folders of artefacts."""
        files.look_again(self.path)
        for inside in self.path.glob("*/"):
            files.look_again(inside)

    def wait_to_see(self, is_seen: Callable[[], bool], seconds: float) -> bool:
        """Looks again and again for what another process has written: NFS shows files late.

        Every look is a safe point.

        Args:
          is_seen: whether it is there.
          seconds: after which it is given up.

        Returns:
          Whether it was seen.
        """
        deadline = time.monotonic() + seconds
        while not is_seen():
            if time.monotonic() > deadline:
                return False
            stopping.check()
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            self.refresh()
        return True

    def _lock_out_others(self) -> None:
        """Locks the folder until this object closes or the process ends."""
        try:
            self._lock = locks.take(self.path / ".lock")
        except locks.LockHeldElsewhere as e:
            raise UserError(
                f"Another process is at work in {self.path}; wait for it or choose another "
                f"--workdir."
            ) from e

    def _clear_leftovers(self) -> None:
        """Deletes what killed runs left under temporary names."""
        others = [p for p in self.path.glob("teachers/*") if p.is_dir()]
        partial = [*self.path.glob("*.partial"), *self.path.glob("teachers/*.partial")]
        inside = [path for folder in partial for path in folder.rglob("*") if path.is_dir()]
        unfinished = [p for p in (*partial, *inside) if p.is_dir()]
        for path in (*(self.path / name for name in (*_FOLDERS, *_FILES)), *others):
            files.clear_leftovers(path)
        for path in self.path.glob(f"{_MARK}*"):
            path.unlink(missing_ok=True)
        for folder in (self.path / "cache", self.path / "teachers", *unfinished):
            files.clear_temporaries(folder)
        files.clear_temporaries(self.path / "scores", _SECONDS_OF_A_WRITE)

    def close(self, failed: bool = False) -> None:
        """Closes the log and releases the lock.

        Args:
          failed: whether the run ends early, by a signal or an error.
        """
        self.log.close(failed)
        if self._lock:
            self._lock.close()

    def manifest(self, name: str) -> dict[str, Any] | None:
        """Manifest of an artefact; None if there is no file or it is not a manifest."""
        try:
            return self.read_manifest(name)
        except (FileNotFoundError, DamagedArtefact):
            return None

    def read_manifest(self, name: str, stage: str = "") -> dict[str, Any]:
        """Manifest of an artefact.

        Raises:
          FileNotFoundError: if there is none.
          DamagedArtefact: if it is none, or was changed since it was written.
        """
        return artefact.read(self.path / name, Path(name).parts[0], stage)

    def _is_partial(self, name: str, inputs: dict[str, Any]) -> bool:
        """Whether a stage was begun with these inputs."""
        found = self._json(f"{name}.partial/inputs.json")
        return isinstance(found, dict) and not changes(found, inputs)

    def _json(self, name: str) -> Any:
        """Content of a JSON file; None if it is missing or damaged."""
        try:
            return files.read_object(self.path / name)
        except (OSError, ValueError):
            return None

    def needed(self, name: str, stage: str) -> dict[str, Any]:
        """Manifest of an artefact that must exist.

        Raises:
          UserError: naming the stage to run.
          DamagedArtefact: if it is damaged.
        """
        try:
            return self.read_manifest(name, stage)
        except FileNotFoundError as e:
            raise UserError(
                f"{self.path / name} is missing; run the {stage} stage first (--stages={stage})."
            ) from e

    def partial(self, name: str, inputs: dict[str, Any]) -> Path:
        """Folder for the finished work of an unfinished stage.

        Deletes what was made from other inputs.
        """
        folder = self.path / f"{name}.partial"
        if self._is_partial(name, inputs):
            return folder
        with files.disk_errors_as_user_errors(folder):
            files.delete_folder(folder)
            folder.mkdir()
        files.write_json(folder / "inputs.json", inputs)
        return folder


as_json = files.as_json


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Differences between two sets of inputs, as phrases; empty if there is none.

    Every decision that two artefacts are made from the same inputs is made here. A setting that
    inputs do not name has its default, and one that was removed has the value that all runs now
    have. A ranking that is gone was not read. So new and removed settings do not make finished runs
    run again.
    """
    old, new = as_json(old), as_json(new)
    phrases = []
    for name in sorted(old.keys() | new.keys()):
        unnamed = _unnamed(name)
        if old.get(name, unnamed) == new.get(name, unnamed):
            continue
        if name not in old:
            phrases.append(f"{name} is new")
        elif name not in new and name == _NAMED_TOO_OFTEN:
            continue
        elif name not in new:
            phrases.append(f"{name} is gone")
        else:
            phrases.append(f"{name} was {_short(old[name])}, is {_short(new[name])}")
    return phrases


def _unnamed(name: str) -> Any:
    """What an input has where it is not named; equal to no JSON value if it is no setting."""
    if name in recipe_lib.SETTINGS:
        return as_json(recipe_lib.SETTINGS[name].default)
    return recipe_lib.REMOVED.get(name, _NOT_A_SETTING)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
