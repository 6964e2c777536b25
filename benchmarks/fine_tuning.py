"""Measures what fine-tuning gains over training from scratch, on few pictures of other classes.

python benchmarks/fine_tuning.py                    on Fashion-MNIST
python benchmarks/fine_tuning.py --write            also fills docs/teachers.md
python benchmarks/fine_tuning.py --data=runs/clip_art --network=conv4 --first_epochs=30

A teacher is trained on pictures of the first half of the classes, in label order. Of each class of
the other half, a few train teachers from scratch and teachers that begin with the first one's
weights, in as many epochs; others test them. Every seed draws other pictures, which all ways share,
so that gains are differences of pairs. Finished teachers stay in OUT, so the same command goes on
where it was stopped.
"""

import argparse
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import measured
import numpy as np

from delt_jax import main
from delt_jax.config import default_config
from delt_jax.data import fit
from delt_jax.data.idx import read_idx
from delt_jax.errors import UserError
from delt_jax.runtime import devices, host_memory
from delt_jax.store import files

PAGE = "docs/teachers.md"
FASHION = "/usr/share/datasets/fashion-mnist"
FASHION_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
SIZE = 64  # pixels that pictures of folders are brought to
MOST = 1000  # pictures of a class that the first teacher sees
TESTED = 200  # of a class, at most half of it
KEY = ("data", "network", "epochs", "pictures", "way")  # of a row

Pixels = Mapping[str, np.ndarray]  # uint8 [N, S, S, C] by the name of the class


class Way(NamedTuple):
    """A way to train on few pictures.

    Attributes:
      name: in the table.
      settings: of the teacher, by dotted name.
    """

    name: str
    settings: dict[str, Any]


_BEGUN = {"teacher.fine_tune": True}
WAYS = (
    Way("from scratch", {}),
    Way("last layer alone", _BEGUN | {"teacher.body_rate": 0.0}),
    Way("`fine_tune`, as it is set", _BEGUN),
)


def read(data: Path) -> Pixels:
    """Pictures of every class, of a folder of class folders or of Fashion-MNIST's files."""
    if list(data.glob("*images-idx3-ubyte*")):
        images, labels = (
            read_idx(min(data.glob(f"train-{what}*"))) for what in ("images", "labels")
        )
        return {name: images[labels == c][..., None] for c, name in enumerate(FASHION_NAMES)}
    classes = sorted(path for path in data.iterdir() if path.is_dir()) if data.is_dir() else []
    return {folder.name: _of_folder(folder) for folder in classes}


def _of_folder(folder: Path) -> np.ndarray:
    paths = sorted(folder.iterdir())
    decoded = (fit.decode(path.read_bytes(), path.name) for path in paths)
    return np.stack([fit.fit_image(picture, SIZE, 3, "pad") for picture in decoded])


def halves(found: Pixels) -> tuple[Pixels, Pixels]:
    """Pictures of the first half of the classes, and of the second.

    Raises:
      UserError: unless each half has two classes or more.
    """
    names = list(found)
    if len(names) < 4:
        raise UserError("--data needs the folders of four classes or more; name another folder.")
    middle = len(names) // 2
    return {n: found[n] for n in names[:middle]}, {n: found[n] for n in names[middle:]}


def few_of(found: Pixels, count: int, seed: int) -> tuple[Pixels, Pixels]:
    """Some pictures of every class to train on, other ones for every seed; and those that test.

    Raises:
      UserError: if a class has too few pictures.
    """
    train, test = {}, {}
    for number, (name, pixels) in enumerate(found.items()):
        tested = min(TESTED, len(pixels) // 2)
        if len(pixels) - tested < count:
            raise UserError(f"{name} has {len(pixels)} pictures; lower --pictures.")
        drawn = np.random.default_rng([seed, number]).permutation(len(pixels) - tested)[:count]
        train[name], test[name] = pixels[tested + drawn], pixels[:tested]
    return train, test


def write_npz(path: Path, train: Pixels, test: Pixels) -> None:
    """Writes both splits as the file of arrays that data.name=npz reads."""
    arrays: dict[str, np.ndarray] = {"class_names": np.array(list(train))}
    for split, part in (("train", train), ("test", test)):
        counts = [len(pixels) for pixels in part.values()]
        arrays[f"{split}_images"] = np.concatenate(list(part.values()))
        arrays[f"{split}_labels"] = np.repeat(np.arange(len(part), dtype=np.int32), counts)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_npz(path, **arrays)


def train(chosen: argparse.Namespace, data: Path, name: str, settings: dict[str, Any]) -> float:
    """Accuracy of a teacher, trained now or by an earlier call.

    Args:
      chosen: the flags.
      data: file of its pictures.
      name: of its work directory in OUT.
      settings: by dotted name, beside those that all teachers share.
    """
    config, out = default_config(), Path(chosen.out).absolute()
    shared = {
        **{"data.name": "npz", "data.path": str(data), "teacher.model": chosen.network},
        **{"teacher.learning_rate": 0.05, "data.flip": False, "ipc": 1},
        "teacher.width": 64 if chosen.network.startswith("conv") else 0,
    }
    config.update_from_flattened_dict(shared | settings)
    run = out / name
    main.run(config, str(run), ("squeeze",), command=shlex.join(["python", *sys.argv]))
    return float(files.read_json(run / "teacher/manifest.json")["accuracy"])


def measure(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Trains all teachers; a row for each way and number of pictures."""
    out, first, second = Path(chosen.out).absolute(), *halves(read(Path(chosen.data)))
    seen = {name: pixels[TESTED:][:MOST] for name, pixels in first.items()}
    write_npz(out / "many.npz", seen, {name: pixels[:TESTED] for name, pixels in first.items()})
    whole = {"teacher.epochs": chosen.first_epochs, "teacher.batch_size": 64}
    before = train(chosen, out / "many.npz", "many", whole)
    rows = []
    for count in chosen.pictures:
        found: dict[str, list[float]] = {way.name: [] for way in WAYS}
        for seed in range(chosen.seeds):
            data = out / f"few_{count}_{seed}.npz"
            write_npz(data, *few_of(second, count, seed))
            for number, way in enumerate(WAYS):
                few = {"teacher.epochs": chosen.epochs, "teacher.batch_size": 25, "seed": seed}
                if way.settings:
                    few["teacher.weights"] = str(out / "many/teacher")
                name = f"few_{count}_{number}_{seed}"
                found[way.name].append(train(chosen, data, name, few | way.settings))
        shared = {
            "data": Path(chosen.data).name,
            "classes": [list(first), list(second)],
            "seen": sum(map(len, seen.values())),
            "pictures": count,
            "tested": sum(min(TESTED, len(pixels) // 2) for pixels in second.values()),
            "epochs": chosen.epochs,
            "first_epochs": chosen.first_epochs,
            "first_accuracy": before,
            "network": chosen.network,
            "machine": devices.describe(),
            "date": date.today().isoformat(),
        }
        rows += [shared | {"way": name, "accuracies": values} for name, values in found.items()]
    return rows


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: the accuracy of every way, and what it adds to training from scratch."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in KEY[:3]), []).append(row)
    lines = []
    for found in groups.values():
        lines += [
            "",
            "| pictures of a class | training | accuracy, % | more |",
            "|---|---|---|---|",
        ]
        for row in found:
            base = next(each for each in found if each["pictures"] == row["pictures"])
            pairs = zip(row["accuracies"], base["accuracies"], strict=True)
            more = "–" if row is base else _spread([a - b for a, b in pairs], "+")
            cells = [str(row["pictures"]), row["way"], _spread(row["accuracies"]), more]
            lines.append(f"| {' | '.join(cells)} |")
        one = found[0]
        first, second = (", ".join(half) for half in one["classes"])
        lines += [
            "",
            f"{one['network']}, {second}, {one['epochs']} epochs, {len(one['accuracies'])} seeds "
            f"with pictures of their own, tested on {one['tested']:,} others; mean ± standard "
            f"deviation, of pairs where it says more. Chance is "
            f"{100 / len(one['classes'][1]):.0f} %. The weights are of {one['seen']:,} pictures of "
            f"{first}, {one['first_epochs']} epochs ({100 * one['first_accuracy']:.1f} %). "
            f"{one['machine']}, {one['date']}.",
        ]
    return lines[1:]


def _spread(values: Sequence[float], sign: str = "") -> str:
    """Mean and standard deviation in percent; of one value the mean alone."""
    mean = f"{100 * statistics.mean(values):{sign}.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def choose(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", default=FASHION, help="folder of class folders, or of Fashion-MNIST's files")
    add("--out", default="runs/fine_tuning", help="folder of the work directories made here")
    add("--pictures", type=int, nargs="+", default=[5, 10, 20], help="of a class to train on")
    add("--network", default="conv3", help="a network of the zoo")
    add("--first_epochs", type=int, default=5, help="on pictures of the first half")
    add("--epochs", type=int, default=20, help="on few pictures of the other half")
    add("--seeds", type=int, default=3, help="teachers of each way")
    add("--write", action="store_true", help="keep the results, fill docs/")
    chosen = parser.parse_args(argv)
    if min(*chosen.pictures, chosen.first_epochs, chosen.epochs, chosen.seeds) < 1:
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
