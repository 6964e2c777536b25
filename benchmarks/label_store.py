"""Trains students on stored labels of several sizes, and online, on the same distilled sets.

python benchmarks/label_store.py --out=runs/labels       Fashion-MNIST at IPC 10 and 50
python benchmarks/label_store.py --workdir=runs/fashion  teacher, settings and, at its IPC, the
                                                         set of a finished run
python benchmarks/label_store.py --write                 also writes benchmarks/results/,
                                                         docs/labels.png and the table of
                                                         docs/evaluation.md

Every IPC has a work directory in --out, in which the relabel and evaluate stages run for one size
of the store after the other. Finished students are kept in OUT/scores, so that the same command
goes on where it was stopped. The first set's teacher serves all. --quick is a trial of minutes.
"""

import argparse
import importlib.util
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import label_table
import measured
import ml_collections

from delt_jax import main
from delt_jax.config import default_config
from delt_jax.errors import UserError
from delt_jax.evaluation.metrics import ScoreRow
from delt_jax.labels import label_store
from delt_jax.recipe import Recipe, flatten
from delt_jax.runtime import devices, host_memory
from delt_jax.store import files

PAGE, PICTURE = "docs/evaluation.md", "docs/labels.png"
_CONFIG = measured.ROOT / "configs" / "fashion_mnist.py"
_TAKEN = ("teacher", "distilled", "ranking.csv", "ranking.json")  # copied from a finished run
_EPOCHS = 300  # of a student, if the settings leave them to the protocol
_MAKE = ("squeeze", "rank", "recover")
_SHOWN = "![Accuracy against the size of stored labels](labels.png)"
# To try the script itself; the results mean nothing.
_QUICK = {
    "teacher.epochs": 1,
    "recover.iterations": 16,
    "recover.round_iterations": 2,
    "evaluate.epochs": 6,
}


@dataclass(frozen=True)
class Size:
    """Size of a label store.

    Attributes:
      uses: how many epochs of training use each labelled epoch.
      top_k: largest values stored of a label; 0 stores all.
      form: "logits" or "probabilities".
    """

    uses: int
    top_k: int
    form: str


# From the naive size to 1/222 of it, with 10 classes.
SIZES = (
    Size(1, 0, "logits"),
    Size(1, 3, "probabilities"),
    Size(5, 0, "logits"),
    Size(10, 3, "probabilities"),
    Size(20, 0, "logits"),
    Size(20, 3, "logits"),
    Size(20, 3, "probabilities"),
    Size(20, 1, "probabilities"),
    Size(50, 0, "logits"),
    Size(50, 3, "probabilities"),
    Size(100, 3, "probabilities"),
)


def settings_of(chosen: argparse.Namespace) -> ml_collections.ConfigDict:
    """Settings of the finished run, or of the config, changed for this benchmark."""
    if chosen.workdir:
        config = finished_settings(Path(chosen.workdir))
    else:
        config = config_of(Path(chosen.config))
    config.evaluate.images = ("recovered",)
    config.evaluate.plain, config.evaluate.smaller = False, ()
    config.evaluate.seeds = chosen.seeds
    config.evaluate.scores_folder = str(Path(chosen.out).absolute() / "scores")
    if chosen.quick:
        config.update_from_flattened_dict(_QUICK)
    config.evaluate.students = config.evaluate.students[:1]
    config.evaluate.learning_rates = ()
    config.evaluate.epochs = chosen.epochs or config.evaluate.epochs or _EPOCHS
    return config


def config_of(path: Path) -> ml_collections.ConfigDict:
    """Settings of a config file."""
    spec = importlib.util.spec_from_file_location("config", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"--config {path} is no Python file; name one of configs/.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def finished_settings(workdir: Path) -> ml_collections.ConfigDict:
    """Settings of a finished run, as far as they still exist."""
    missing = [name for name in (*_TAKEN, "config.json") if not (workdir / name).exists()]
    if missing:
        raise UserError(f"--workdir {workdir} has no {missing[0]}; name a run that has recovered.")
    config, known = default_config(), flatten(Recipe())
    for name, value in files.read_json(workdir / "config.json")["settings"].items():
        if name in known and value is not None:
            value = tuple(value) if isinstance(value, list) else value
            config.update_from_flattened_dict({name: value})
    return config


def prepare(config: ml_collections.ConfigDict, chosen: argparse.Namespace) -> list[Path]:
    """Makes a work directory with a distilled set for every IPC.

    Takes the set of --workdir unchanged; recovers the other sets with the first one's teacher.
    """
    out, folders = Path(chosen.out).absolute(), []
    given = Path(chosen.workdir).absolute() if chosen.workdir else None
    teacher = str(given / "teacher") if given else config.teacher.weights
    for ipc in chosen.ipc:
        folder = out / f"ipc{ipc}"
        if given and ipc == config.ipc:
            take(given, folder)
        else:
            settings = config.copy_and_resolve_references()
            settings.ipc, settings.teacher.weights = ipc, teacher
            main.run(settings, str(folder), _MAKE, command=_command())
        teacher = teacher or str(folder / "teacher")
        folders.append(folder)
    return folders


def take(given: Path, folder: Path) -> None:
    """Copies teacher, ranking and set of a finished run, once."""
    if (folder / "config.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in _TAKEN:
        source = given / name
        if source.is_dir():
            shutil.copytree(source, folder / name, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, folder / name)
    shutil.copyfile(given / "config.json", folder / "config.json")  # last: it marks the folder


def measure(config: ml_collections.ConfigDict, folder: Path, size: Size | None) -> dict[str, Any]:
    """Labels and trains with one size of the store, or online.

    Returns:
      A row of the results.
    """
    settings = config.copy_and_resolve_references()
    settings.ipc = files.read_json(folder / "distilled" / "manifest.json")["ipc"]
    settings.evaluate.regimes = ("online",)
    if size is not None:
        epochs = settings.evaluate.epochs
        settings.evaluate.regimes = ("stored",)
        settings.relabel.stored_epochs = -(-epochs // size.uses)
        settings.relabel.top_k, settings.relabel.form = size.top_k, size.form
    main.run(settings, str(folder), ("relabel", "evaluate"), command=_command())
    labels = files.read_json(folder / "soft_labels" / "manifest.json")
    scores = files.read_json(folder / "evaluation" / "manifest.json")
    (row,) = (ScoreRow.from_dict(row) for row in scores["rows"])
    stored = labels["stored"] if size is not None else {"bytes": 0, "ratio": 0.0}
    if size is not None:
        assert (folder / "soft_labels" / label_store.FILE).stat().st_size == stored["bytes"]
    return {
        "data": name_of(settings),
        "ipc": settings.ipc,
        "labels": row.regime,
        "stored_epochs": settings.relabel.stored_epochs if size is not None else 0,
        "top_k": size.top_k if size is not None else 0,
        "form": size.form if size is not None else "",
        "epochs": settings.evaluate.epochs,
        "bytes": stored["bytes"],
        "ratio": stored["ratio"],
        "last_mean": row.last_mean,
        "last_std": row.last_std,
        "seeds": row.seeds,
        "scores": row.scores,
        "student": row.student
        + (f" of width {width}" if (width := settings.evaluate.width) else ""),
        "protocol": row.protocol,
        "distilled": scores["distilled"],
        "teacher": scores["teacher"]["hash"],
        "machine": devices.describe(),
        "date": date.today().isoformat(),
    }


def _command() -> str:
    """That makes the scores again, to be noted beside them."""
    return shlex.join(["python", *sys.argv])


def name_of(config: ml_collections.ConfigDict) -> str:
    """What people call the data."""
    data = config.data
    return data.dataset or Path(data.path).name or data.name


def write(rows: list[dict[str, Any]]) -> None:
    """Keeps the rows with those of earlier runs, and puts all into page and picture."""
    stored = measured.keep("label_store", rows[0]["data"], rows, label_table.KEY)
    files.write_bytes(measured.ROOT / PICTURE, label_table.picture(stored))
    measured.publish(PAGE, [*label_table.table(stored), "", _SHOWN], "label_store")


def size_of(text: str) -> Size:
    """Reads USES:TOP_K:FORM."""
    try:
        uses, top_k, form = text.split(":")
        size = Size(int(uses), int(top_k), form)
    except ValueError:
        size = Size(0, 0, "")
    if size.uses < 1 or size.top_k < 0 or size.form not in ("logits", "probabilities"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size; write USES:TOP_K:FORM, such as 20:3:probabilities or 1:0:logits"
        )
    return size


def choose(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", default="runs/labels", help="folder of the work directories made here")
    add("--workdir", default="", help="a finished run to take settings, teacher and set from")
    add("--config", default=str(_CONFIG), help="where there is no --workdir")
    add("--ipc", type=int, nargs="+", default=[10, 50], help="images per class")
    add("--sizes", type=size_of, nargs="+", default=SIZES, help="of the store, USES:TOP_K:FORM")
    add("--seeds", type=int, default=3, help="students of each size")
    add("--epochs", type=int, default=0, help="of a student; 0: as the settings say")
    add("--quick", action="store_true", help="small budgets, to see that it works")
    add("--write", action="store_true", help="keep the results, fill docs/")
    chosen = parser.parse_args(argv)
    if min(*chosen.ipc, chosen.seeds) < 1 or chosen.epochs < 0:
        parser.error("--ipc and --seeds must be at least 1, --epochs at least 0")
    return chosen


def run(argv: Sequence[str] | None = None) -> None:
    chosen = choose(argv)
    host_memory.keep_freed()
    config = settings_of(chosen)
    rows: list[dict[str, Any]] = []
    for folder in prepare(config, chosen):
        for size in (None, *chosen.sizes):
            rows.append(measure(config, folder, size))
            if chosen.write:
                write(rows)
    print("\n".join(label_table.table(rows)))


if __name__ == "__main__":
    try:
        run()
    except UserError as e:
        sys.exit(f"label_store: {e}")
