"""Measures what fine-tuning gains over training from scratch, on few pictures of a folder.

python benchmarks/clip_art.py --out=runs/clip_art
python benchmarks/fine_tuning.py --folder=runs/clip_art           measures
python benchmarks/fine_tuning.py --folder=runs/clip_art --write   also fills docs/teachers.md

A teacher is trained on all pictures of the first half of the classes, in the order of their names.
Of the other half, --pictures of each class train teachers from scratch and teachers that begin with
the first one's weights, in as many epochs; all others test them. With --weights, teachers begin
with those, which must take pixels as EfficientNet-Lite0's do, (pixel - 127) / 128. Finished
teachers stay in OUT, so the same command goes on where it was stopped.
"""

import argparse
import shlex
import shutil
import statistics
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import measured

from delt_jax import main
from delt_jax.config import default_config
from delt_jax.data import fit
from delt_jax.errors import UserError
from delt_jax.runtime import devices, host_memory
from delt_jax.store import files, pictures

PAGE = "docs/teachers.md"
SIZE = 64  # pixels
KEY = ("way", "data", "pictures", "epochs", "network")  # of a row


class Way(NamedTuple):
    """A way to train on few pictures.

    Attributes:
      name: in the table.
      settings: of the teacher, by dotted name.
    """

    name: str
    settings: dict[str, Any]


_LITE = {  # what EfficientNet-Lite0 was trained with
    "data.mean": (127 / 255, 127 / 255, 127 / 255),
    "data.std": (128 / 255, 128 / 255, 128 / 255),
}
_BEGUN = {"teacher.fine_tune": True}
WAYS = (
    Way("from scratch", {}),
    Way("last layer alone", _BEGUN | {"teacher.body_rate": 0.0}),
    Way("`fine_tune`, as it is set", _BEGUN),
    Way("all layers at one rate", _BEGUN | {"teacher.body_rate": 1.0}),
)


def halves(folder: Path) -> tuple[list[Path], list[Path]]:
    """Class folders of the first and of the second half.

    Raises:
      UserError: unless each half has two classes or more.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if len(classes) < 4:
        raise UserError(f"{folder} needs the folders of four classes or more; name another folder.")
    return classes[: len(classes) // 2], classes[len(classes) // 2 :]


def lay_out(folder: Path, out: Path, count: int) -> None:
    """Shrinks the pictures: OUT/many/CLASS of one half, OUT/few/train and few/test of the other.

    Args:
      folder: of class folders.
      out: gets the pictures at 64 px, decoded once for all teachers, unless it is there.
      count: pictures of a class to train on, the first by name.

    Raises:
      UserError: if a class has no more pictures than that.
    """
    many, few = halves(folder)
    if out.exists():
        return
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for each in many:
        _shrink(sorted(each.iterdir()), partial / "many" / each.name)
    for each in few:
        found = sorted(each.iterdir())
        if len(found) <= count:
            raise UserError(f"{each} has {len(found)} pictures; lower --pictures.")
        _shrink(found[:count], partial / "few/train" / each.name)
        _shrink(found[count:], partial / "few/test" / each.name)
    partial.rename(out)


def _shrink(paths: Sequence[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for path in paths:
        pixels = fit.fit_image(fit.decode(path.read_bytes(), path.name), SIZE, 3, "pad")
        (folder / f"{path.stem}.png").write_bytes(pictures.encode(pixels))


def train(chosen: argparse.Namespace, name: str, settings: dict[str, Any]) -> float:
    """Accuracy of a teacher, trained now or by an earlier call.

    Args:
      chosen: the flags.
      name: of its work directory in OUT.
      settings: by dotted name, beside those that all teachers share.
    """
    config, out = default_config(), Path(chosen.out).absolute()
    shared = {
        **{"data.name": "folder", "data.image_size": SIZE, "data.channels": 3},
        **{"teacher.model": chosen.network, "teacher.learning_rate": 0.05},
        "teacher.width": 64 if chosen.network.startswith("conv") else 0,
    }
    config.update_from_flattened_dict(shared | settings)
    run = out / name
    main.run(config, str(run), ("squeeze",), command=shlex.join(["python", *sys.argv]))
    return float(files.read_json(run / "teacher/manifest.json")["accuracy"])


def measure(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Trains all teachers; a row for each way."""
    out = Path(chosen.out).absolute()
    lay_out(Path(chosen.folder).absolute(), out / f"pictures_{chosen.pictures}", chosen.pictures)
    before, weights = None, {"teacher.weights": chosen.weights} | _LITE
    if not chosen.weights:
        whole = {"teacher.epochs": chosen.first_epochs, "teacher.batch_size": 64}
        whole["data.path"] = f"{out}/pictures_{chosen.pictures}/many"
        before = train(chosen, "many", whole)
        weights = {"teacher.weights": str(out / "many/teacher")}
    few = {"data.path": f"{out}/pictures_{chosen.pictures}/few", "teacher.epochs": chosen.epochs}
    few |= {"teacher.batch_size": 25}
    rows = []
    for number, way in enumerate(WAYS):
        asked = few | (weights if way.settings else {}) | way.settings
        found = [
            train(chosen, f"few_{number}_{seed}", asked | {"seed": seed})
            for seed in range(chosen.seeds)
        ]
        rows.append(
            {
                "way": way.name,
                "data": Path(chosen.folder).name,
                "classes": [[each.name for each in half] for half in halves(Path(chosen.folder))],
                "pictures": chosen.pictures,
                "tested": sum(1 for _ in out.glob(f"pictures_{chosen.pictures}/few/test/*/*")),
                "epochs": chosen.epochs,
                "weights": chosen.weights,
                "first_epochs": chosen.first_epochs,
                "first_accuracy": before,
                "network": chosen.network,
                "accuracies": found,
                "machine": devices.describe(),
                "date": date.today().isoformat(),
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: the accuracy of every way, and what it adds to training from scratch."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in KEY[1:]), []).append(row)
    lines = []
    for found in groups.values():
        lines += ["", "| training | accuracy, % | more |", "|---|---|---|"]
        base = statistics.mean(found[0]["accuracies"])
        for row in found:
            values = row["accuracies"]
            spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
            more = "–" if row is found[0] else f"{100 * (statistics.mean(values) - base):+.1f}"
            lines.append(f"| {row['way']} | {100 * statistics.mean(values):.1f}{spread} | {more} |")
        one = found[0]
        first, second = (", ".join(half) for half in one["classes"])
        of = f"`{one['weights']}`"
        if not one["weights"]:
            accuracy = f"{100 * one['first_accuracy']:.1f} %"
            of = f"of {first}, {one['first_epochs']} epochs ({accuracy})"
        lines += [
            "",
            f"{one['network']} at {SIZE} px, {one['pictures']} pictures of each of "
            f"{second}, {one['epochs']} epochs, {len(one['accuracies'])} seeds, tested on "
            f"{one['tested']:,} others. The weights are {of}. {one['machine']}, {one['date']}.",
        ]
    return lines[1:]


def choose(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--folder", required=True, help="of class folders")
    add("--out", default="runs/fine_tuning", help="folder of the work directories made here")
    add("--pictures", type=int, default=25, help="of a class to train on")
    add("--network", default="conv4", help="a network of the zoo")
    add("--weights", default="", help="to begin with; empty trains some on the first half")
    add("--first_epochs", type=int, default=30, help="on all pictures of the first half")
    add("--epochs", type=int, default=40, help="on few pictures of the other half")
    add("--seeds", type=int, default=3, help="teachers of each way")
    add("--write", action="store_true", help="keep the results, fill docs/")
    chosen = parser.parse_args(argv)
    if min(chosen.pictures, chosen.first_epochs, chosen.epochs, chosen.seeds) < 1:
        parser.error("--pictures, --first_epochs, --epochs and --seeds must be at least 1")
    return chosen


def run(argv: Sequence[str] | None = None) -> None:
    """Measures all ways."""
    chosen = choose(argv)
    host_memory.keep_freed()
    rows = measure(chosen)
    if chosen.write:
        rows = measured.keep("fine_tuning", rows[0]["data"], rows, KEY)
        measured.publish(PAGE, table(rows), "fine_tuning")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    try:
        run()
    except UserError as e:
        sys.exit(f"fine_tuning: {e}")
