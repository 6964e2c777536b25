"""Measures changes to DELT's evaluation protocol on the sets of a finished run.

python benchmarks/protocol_changes.py --workdir=runs/fashion           all changes, and delt_jax
python benchmarks/protocol_changes.py --workdir=runs/fashion --write   also fills docs/evaluation.md

Students learn online from the run's recovered images. To choose a protocol, use a run made with
--config.data.validation_share=0.1, so that no test image decides; the table's caption says which
images did. Finished students are kept in OUT/scores, so the same command goes on where it
was stopped.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import label_store
import measured

from delt_jax import main
from delt_jax.errors import UserError
from delt_jax.evaluation.metrics import ScoreRow
from delt_jax.runtime import devices, host_memory
from delt_jax.store import files

PAGE = "docs/evaluation.md"
KEY = ("change", "data", "looked_at", "epochs", "student", "ipc")  # of a row


class Change(NamedTuple):
    """A change to a protocol.

    Attributes:
      name: in the table.
      settings: new values by dotted name.
      protocol: name of the protocol that is changed.
    """

    name: str
    settings: dict[str, Any]
    protocol: str = "delt"


CHANGES = (
    Change("none: `delt`", {}),
    Change("no RandAugment", {"relabel.rand_augment": ""}),
    Change("crops 0.08-1", {"relabel.min_scale": 0.08}),
    Change("crops 0.5-1", {"relabel.min_scale": 0.5}),
    Change("no mixing", {"relabel.mix": "none"}),
    Change("Mixup 0.8", {"relabel.mix": "mixup", "relabel.mix_alpha": 0.8}),
    Change("half the batch", {"evaluate.batch_size": 25}),
    Change("twice the rate", {"evaluate.learning_rates": (2e-3,)}),
    Change("four times the rate", {"evaluate.learning_rates": (4e-3,)}),
    Change("rate to zero", {"evaluate.schedule": "cosine"}),
    Change(
        "twice the rate, to zero",
        {"evaluate.schedule": "cosine", "evaluate.learning_rates": (2e-3,)},
    ),
    Change("decay 0.1", {"evaluate.weight_decay": 0.1}),
    Change("T 4", {"relabel.temperature": 4.0}),
    Change("MSE of logits", {"evaluate.loss": "mse"}),
    Change("0.1 x cross-entropy", {"evaluate.hard_weight": 0.1}),
    Change("averaged weights, 0.99", {"evaluate.ema": 0.99}),
    Change("all of `delt_jax`", {}, "delt_jax"),
)


def measure(chosen: argparse.Namespace, change: Change, folder: Path) -> dict[str, Any]:
    """Trains students with one change.

    Returns:
      A row of the results.
    """
    config = label_store.finished_settings(Path(chosen.workdir))
    config.evaluate.students = config.evaluate.students[:1]
    config.evaluate.images, config.evaluate.regimes = ("recovered",), ("online",)
    config.evaluate.plain, config.evaluate.smaller = False, ()
    config.evaluate.seeds, config.evaluate.eval_every = chosen.seeds, chosen.epochs
    config.evaluate.epochs, config.evaluate.protocol = chosen.epochs, change.protocol
    config.evaluate.scores_folder = str(Path(chosen.out).absolute() / "scores")
    config.update_from_flattened_dict(change.settings)
    main.run(config, str(folder), ("relabel", "evaluate"), command=_command())
    made = files.read_json(folder / "evaluation" / "manifest.json")
    (row,) = (ScoreRow.from_dict(row) for row in made["rows"])
    return {
        "change": change.name,
        "looked_at": "validation" if config.data.validation_share else "test",
        "data": label_store.name_of(config),
        "ipc": config.ipc,
        "epochs": chosen.epochs,
        "mean": row.last_mean,
        "std": row.last_std,
        "seeds": row.seeds,
        "scores": row.scores,
        "student": f"{row.student} of width {config.evaluate.width or 'its own'}",
        "machine": devices.describe(),
        "date": date.today().isoformat(),
    }


def _command() -> str:
    return shlex.join(["python", *sys.argv])


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: accuracy with every change, and what it adds to that without one."""
    groups: dict[tuple, dict[str, dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in KEY[1:]), {})[row["change"]] = row
    lines = []
    for found in groups.values():
        base, one = found.get(CHANGES[0].name), next(iter(found.values()))
        lines += ["", "| change | accuracy, % | more |", "|---|---|---|"]
        for change in CHANGES:
            if with_it := found.get(change.name):
                more = None
                if base and with_it is not base:
                    more = 100 * (with_it["mean"] - base["mean"])
                score = f"{100 * with_it['mean']:.2f} ± {100 * with_it['std']:.2f}"
                lines.append(
                    f"| {change.name} | {score} | {'–' if more is None else f'{more:+.2f}'} |"
                )
        lines += [
            "",
            f"{one['data']}, IPC {one['ipc']}, recovered images, {one['student']}, "
            f"{one['epochs']} epochs, online labels, {one['seeds']} seeds, {one['looked_at']} "
            f"images; {one['machine']}, {one['date']}.",
        ]
    return lines[1:]


def choose(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--workdir", required=True, help="a finished run to take settings, teacher and set from")
    add("--out", default="runs/protocols", help="folder of the work directory made here")
    add("--seeds", type=int, default=3, help="students of each row")
    add("--epochs", type=int, default=300, help="of each student")
    add("--only", type=int, nargs="+", help="numbers of changes, from 0 on")
    add("--write", action="store_true", help="keep the results, fill docs/")
    chosen = parser.parse_args(argv)
    if min(chosen.seeds, chosen.epochs) < 1:
        parser.error("--seeds and --epochs must be at least 1")
    if not set(chosen.only or ()) <= set(range(len(CHANGES))):
        parser.error(f"--only takes numbers from 0 to {len(CHANGES) - 1}")
    return chosen


def run(argv: Sequence[str] | None = None) -> None:
    """Measures all changes, or those asked for."""
    chosen = choose(argv)
    host_memory.keep_freed()
    folder = Path(chosen.out).absolute() / "run"
    given = Path(chosen.workdir).absolute()
    label_store.finished_settings(given)  # says what is missing
    label_store.take(given, folder)
    rows: list[dict[str, Any]] = []
    for number, change in enumerate(CHANGES):
        if chosen.only is None or number in chosen.only:
            rows.append(measure(chosen, change, folder))
    if chosen.write:
        rows = measured.keep("protocol_changes", rows[0]["data"], rows, KEY)
        measured.publish(PAGE, table(rows), "protocol_changes")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    try:
        run()
    except UserError as e:
        sys.exit(f"protocol_changes: {e}")
