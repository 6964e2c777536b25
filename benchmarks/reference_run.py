"""Holds the working tree against runs of an earlier revision: identities and results, bit by bit.

    python benchmarks/reference_run.py make        # runs the old revision in a git worktree
    python benchmarks/reference_run.py unchanged   # does this tree find its artefacts up to date?
    python benchmarks/reference_run.py anew        # does this tree make the same ones again?

`digits` is the whole demo as the old revision had it. The short cases take a few iterations of
the methods that use every other part of recovery and labelling. Hashes are equal only on the
same machine with the same packages, so `make` first wherever you compare.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_ROOT = Path(__file__).resolve().parent.parent
_REVISION = "8cf5583"  # the last one before the packages were rearranged
_SHORT = (
    "ipc=4",
    "teacher.epochs=6",
    "recover.iterations=8",
    "recover.round_iterations=2",
    "evaluate.seeds=2",
    "evaluate.epochs=3",
    "evaluate.eval_every=2",
)
_STORED = ("evaluate.regimes=online,stored,fixed,hard", "relabel.stored_epochs=2")
# The method and the settings of each case.
_CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "digits": ("", ()),
    "stored": ("", (*_SHORT, *_STORED, "evaluate.smaller=2", "evaluate.plain=True")),
    "full": ("", (*_SHORT, "evaluate.images=recovered,herding,full", "data.validation_share=0.2")),
    "gvbsm": ("gvbsm", (*_SHORT, "teacher.others=conv3:8", "relabel.rand_augment=")),
    "wmdd": ("wmdd", _SHORT),
    "dwa": ("dwa", (*_SHORT, "recover.perturbation_steps=2")),
    "edc": ("edc", (*_SHORT, "teacher.others=conv3:8")),
    "fadrm": ("fadrm", _SHORT),
    "rded": ("rded", (*_SHORT, "recover.iterations=0", "recover.round_iterations=0")),
    "cda": ("cda", _SHORT),
}
_SETTINGS = ("inputs", "settings", "select", "recover")  # groups of them in manifest and summary
_STAGES = ("squeeze", "rank", "recover", "relabel", "evaluate", "report")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("make", "unchanged", "anew"))
    parser.add_argument("--cases", default=",".join(_CASES), help="some of the cases, by comma")
    parser.add_argument("--revision", default=_REVISION)
    parser.add_argument("--folder", type=Path, default=_ROOT / "runs/reference")
    asked = parser.parse_args()
    unknown = sorted(set(asked.cases.split(",")) - set(_CASES))
    if unknown:
        parser.error(f"there is no case {unknown[0]!r}; there are {', '.join(_CASES)}")
    worktree = _worktree(asked.folder.resolve(), asked.revision)
    wrong = 0
    for case in asked.cases.split(","):
        made = asked.folder.resolve() / case
        if asked.what == "make":
            _run(worktree, worktree, case, made)
            print(f"{case}: {_results(made)}")
        else:
            print(f"{case}:")
            compare = _check_unchanged if asked.what == "unchanged" else _check_anew
            for line in compare(worktree, case, made):
                wrong += 1
                print(f"  DIFFERS {line}")
    sys.exit(1 if wrong else 0)


def _worktree(folder: Path, revision: str) -> Path:
    """A checkout of the revision beside the runs, made where it is missing."""
    path = folder / "checkout"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["git", "worktree", "add", "--detach", str(path), revision]
        subprocess.run(command, cwd=_ROOT, check=True)
    return path


def _run(tree: Path, configs: Path, case: str, workdir: Path, *more: str) -> str:
    """Runs a case with the package of one checkout and the recipe of another; returns its log."""
    method, settings = _CASES[case]
    config = f"{configs / 'configs/digits.py'}:{method}".removesuffix(":")
    overrides = [f"--config.{setting}" for setting in settings]
    command = [sys.executable, "-m", "delt_jax.main", f"--config={config}", *overrides]
    command += [f"--workdir={workdir}", *more]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _check_unchanged(worktree: Path, case: str, made: Path) -> Iterator[str]:
    """What this tree would do again with artefacts of the old revision."""
    plan = _run(_ROOT, worktree, case, made, "--dry_run").splitlines()
    for stage in _STAGES:
        line = next(line.strip() for line in plan if line.strip().startswith(stage))
        print(f"  {line}")
        if "done, nothing changed" not in line:
            yield line


def _check_anew(worktree: Path, case: str, made: Path) -> Iterator[str]:
    """What this tree makes otherwise than the old revision."""
    again = made.with_name(f"{case}.anew")
    shutil.rmtree(again, ignore_errors=True)
    _run(_ROOT, worktree, case, again)
    before, after = _results(made), _results(again)
    for name in before:
        print(f"  {name}: {before[name] if name != 'files' else len(before[name])}")
        if name == "files":
            yield from (f"{entry} is gone" for entry in before[name] if entry not in after[name])
            yield from (f"{entry} is new" for entry in after[name] if entry not in before[name])
        elif before[name] != after[name]:
            yield f"{name}: {after[name]}"


def _results(workdir: Path) -> dict[str, Any]:
    """Hashes of a run's artefacts, and the accuracies of its students."""
    named = {"teacher": "teacher", "images": "distilled", "soft labels": "soft_labels"}
    found = {name: _json(workdir / f / "manifest.json")["hash"] for name, f in named.items()}
    found["ranking"] = _json(workdir / "ranking.json")["hash"]
    scores = _json(workdir / "evaluation/scores.json")
    found["scores"] = [score["last"] for score in scores]
    found["files"] = sorted(_entries(workdir))
    return found


def _entries(workdir: Path) -> Iterator[str]:
    """Files of a run, and the names of what is in them; scores are files named by their ids."""
    for path in workdir.rglob("*"):
        name = str(path.relative_to(workdir))
        if path.is_dir() or name.startswith(("cache/", "scores/")):
            continue
        yield name
        if path.suffix == ".json" and name != "config.json":
            yield from (f"{name}: {key}" for key in _keys(_json(path)))
        if path.suffix == ".npz":
            with np.load(path) as stored:
                yield from (f"{name}: {key}" for key in stored.files)


def _keys(value: Any, prefix: str = "") -> set[str]:
    """Dotted names of what is in a JSON value, but for settings, which `unchanged` compares."""
    if isinstance(value, list):
        return set().union(*(_keys(entry, f"{prefix}[]") for entry in value[:3]))
    if not isinstance(value, dict):
        return {prefix}
    return set().union(
        *(_keys(value[key], f"{prefix}.{key}") for key in value if key not in _SETTINGS)
    )


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


if __name__ == "__main__":
    main()
