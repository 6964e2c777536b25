"""Tables of the finished cells of a grid, recipes by images per class."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from delt_jax.comparison import sizes as sizes_lib
from delt_jax.comparison.sizes import RealSizes, Sizes
from delt_jax.evaluation.metrics import ScoreRow
from delt_jax.reporting import tables
from delt_jax.reporting.tables import Section, Table
from delt_jax.store import files

_PARTS = (
    "Seconds of synthesis are those of the images: of recovery, without the training of teachers "
    "and their ranking; of learning, with the training of experts where a method asks for them, "
    "which every set counts that shares them."
)
_SETS = ("recovered", "start", "real")  # sets whose similarity within a class a run measures


@dataclass(frozen=True)
class CellResult:
    """What a finished cell of the grid says about itself.

    Attributes:
      method: name of its recipe.
      name: of its folder.
      summary: content of its summary.json.
      sizes: bytes of its images and labels.
    """

    method: str
    name: str
    summary: dict[str, Any]
    sizes: Sizes

    @property
    def ipc(self) -> int:
        """Images per class of its whole set."""
        return self.summary["ipc"]

    @property
    def scored_on(self) -> str:
        """Split the accuracies were measured on."""
        return self.summary["scored_on"]


@dataclass(frozen=True)
class Line:
    """A line of the table of accuracies.

    Attributes:
      row: its scores; `image_set` is the method, or the name of a baseline.
      cell: the cell with these scores; for a baseline, the first one.
      is_baseline: whether the students saw real images.
    """

    row: ScoreRow
    cell: CellResult
    is_baseline: bool

    @property
    def size(self) -> int | None:
        """Bytes of its images and labels; None if these are not known."""
        return self.cell.sizes.of_row(self.row, self.is_baseline)


def read(folder: Path, method: str, real: RealSizes | None = None) -> CellResult:
    """Reads what a finished cell says about itself.

    Args:
      folder: a work directory whose stages are all done.
      method: name of its recipe.
      real: what real images would take, where that is known.

    Raises:
      UserError: if a file is missing or damaged.
    """
    summary = files.read_json(folder / "summary.json")
    return CellResult(method, folder.name, summary, sizes_lib.of_folder(folder, real))


def lines(cells: Sequence[CellResult]) -> list[Line]:
    """Every row of every cell by student, labels and IPC, methods before baselines.

    A baseline is there once for all cells that share its scores. Where those of several cells
    differ, as teachers or protocols do, its name says whose it is.
    """
    found: list[Line] = []
    shared: dict[tuple, dict[tuple[str, ...], list[tuple[ScoreRow, CellResult]]]] = {}
    for cell in cells:
        for row in (ScoreRow.from_dict(r) for r in cell.summary["scores"]):
            if row.image_set == "recovered":
                part = "" if row.ipc == cell.ipc else f", first of {cell.ipc}"
                found.append(Line(replace(row, image_set=cell.method + part), cell, False))
            else:
                same = shared.setdefault((row.student, row.regime, row.image_set, row.ipc), {})
                same.setdefault(tuple(row.scores), []).append((row, cell))
    for same in shared.values():
        for members in same.values():
            row, cell = members[0]
            if len(same) > 1:
                whose = list(dict.fromkeys(c.method for _, c in members))
                if len(whose) > 2:
                    whose = [f"{whose[0]} and {len(whose) - 1} more"]
                row = replace(row, image_set=f"{row.image_set} (of {', '.join(whose)})")
            found.append(Line(row, cell, True))
    students = list(dict.fromkeys(line.row.student for line in found))
    regimes = list(dict.fromkeys(line.row.regime for line in found))
    return sorted(
        found,
        key=lambda line: (
            students.index(line.row.student),
            regimes.index(line.row.regime),
            line.row.ipc or np.inf,  # all images come last
            line.is_baseline,
        ),
    )


def sections(
    cells: Sequence[CellResult], missing: Sequence[str] = (), for_page: bool = False
) -> list[Section]:
    """All tables.

    Args:
      cells: that are finished.
      missing: names of those that are not.
      for_page: leaves out hashes, warnings and commands, which have their own places on a page.
    """
    listed = lines(cells)
    rows = [line.row for line in listed]
    scored = tables.scores(rows, ids=True)
    named = tables.accuracy_on(" and ".join(dict.fromkeys(cell.scored_on for cell in cells)))
    ids = scored.head[-1:] * (not for_page)
    accuracy = Table(
        (*scored.head[:-1], "bytes", *ids, "cell"),
        [
            (*cells[:-1], _grouped(line.size), *cells[-1:] * bool(ids), line.cell.name)
            for cells, line in zip(scored.body, listed, strict=True)
        ],
    )
    baselines = dict.fromkeys(line.row.image_set for line in listed if line.is_baseline)
    kinds = f"Real images: {', '.join(baselines)}; all else are recipes." if baselines else ""
    unfinished = f"Not finished: {', '.join(missing)}." if missing else ""
    made = [cell.summary["made"] for cell in cells if "made" in cell.summary]
    machines = dict.fromkeys(f"{each['machine']}, {each['date']}" for each in made)
    side_by_side = Section(
        "Students side by side",
        [f"{named} after the last epoch in %."],
        tables.across_students(rows),
        [],
    )
    by_protocol = _by_protocol(listed, named)
    synthesis = [
        *([f"Made on {'; '.join(machines)}."] if machines else []),
        "Similarity is the mean cosine of teacher features within a class: of the recovered "
        "images, of those they started from, and of real ones; lower is more diverse. Images, "
        "labels and teachers are bytes on disk. Labels are one per image (fixed) or of augmented "
        "views (stored); online ones are asked of the teachers, whose weights are counted, while a "
        f"student trains; hard ones are the classes. {_PARTS}",
    ]
    return [
        Section(
            "Accuracy",
            [
                *tables.protocols(rows),
                f"{named} in %, mean ± sample standard deviation.",
                sizes_lib.WORDS,
                *filter(None, [kinds, unfinished]),
                *(f"Warning, {words}" for words in warnings(cells) if not for_page),
            ],
            accuracy,
            [],
        ),
        *([by_protocol] if by_protocol.table.body else []),
        *([side_by_side] if side_by_side.table.body else []),
        Section("Synthesis", synthesis, _synthesis(cells, for_page), []),
        *([] if for_page else [commands(cells)]),
    ]


def _by_protocol(listed: Sequence[Line], named: str) -> Section:
    """Every set with what it needs and costs, and its accuracy by each protocol, side by side.

    Without rows where every set has one protocol and none was learned.
    """
    columns = list(dict.fromkeys(_column(line) for line in listed))
    is_learned = any("learned" in line.cell.summary for line in listed)
    found: dict[tuple, dict[tuple[str, str], Line]] = {}
    for line in listed:
        own = line.cell.summary["distilled"]
        plain = _without_protocol(line.row.image_set)
        teacher = line.cell.summary.get("teacher", {}).get("hash") if _asks(line) else None
        of_set = (plain, line.row.regime, line.row.ipc, teacher if line.is_baseline else own)
        column = _column(line)
        if column in found.get(of_set, {}):  # the same real images in another preprocessing
            of_set = (line.row.image_set, *of_set[1:])
        found.setdefault(of_set, {})[column] = line
    several = len({student for student, _ in columns}) > 1
    head = (
        *("set", "labels", "IPC", "teacher at student time", "bytes", "seconds of synthesis"),
        *(f"{student}, {name}" if several else name for student, name in columns),
    )
    body = []
    for (name, regime, ipc, _), scores in found.items():
        first = next(iter(scores.values()))
        made = "none" if first.is_baseline else seconds_in_words(first.cell.summary)
        cells = [name, regime, str(ipc or "all"), "yes" if _asks(first) else "no"]
        cells += [_grouped(first.size), made]
        for column in columns:
            row = scores[column].row if column in scores else None
            cells.append("–" if row is None else tables.accuracy(row))
        body.append(tuple(cells))
    words = [f"{named} after the last epoch in %, by student and protocol. {_PARTS}"]
    is_crossed = any(len({name for _, name in scores}) > 1 for scores in found.values())
    shown = body if is_crossed or is_learned else []
    return Section("Sets by protocol", words, Table(head, shown), [])


def _column(line: Line) -> tuple[str, str]:
    """A student and the name of the protocol that trained it."""
    return line.row.student, re.split(r"[ :,]", line.row.protocol, maxsplit=1)[0]


def _without_protocol(name: str) -> str:
    """A set's name without the variant that chose its protocol, or the cells that share it."""
    return re.sub(r",protocol=\w+| \(of .*", "", name)


def _asks(line: Line) -> bool:
    """Whether a teacher labels while the student trains."""
    return line.row.regime == "online"


def commands(cells: Sequence[CellResult]) -> Section:
    """What makes each cell alone."""
    table = Table(("cell", "command"), [(c.name, c.summary["command"]) for c in cells])
    return Section("Commands", ["What makes each cell again."], table, [])


def warnings(cells: Sequence[CellResult]) -> list[str]:
    """What stages of the cells warned of; those of older versions have kept nothing."""
    return [
        f"{cell.name}, {warning['stage']}: {warning['sentence']}"
        for cell in cells
        for warning in cell.summary.get("warnings", ())
    ]


def hashes(cells: Sequence[CellResult]) -> Table:
    """What traces sets, teachers and scores back to their files."""
    body = []
    for cell in cells:
        body.append((f"distilled set of {cell.name}", cell.summary["distilled"]))
        if teacher := cell.summary.get("teacher"):
            body.append((f"teacher of {cell.name}", teacher["hash"]))
    for line in lines(cells):
        r = line.row
        named = f"scores of {r.student}, {r.regime}, {r.image_set}, {r.ipc or 'all'}"
        body.append((named, " ".join(r.scores)))
    return Table(("what", "hash"), body)


def _synthesis(cells: Sequence[CellResult], for_page: bool) -> Table:
    """Cost of each set, and similarity of its images."""
    head = ("method", "IPC", *(f"similarity {name}" for name in _SETS), "seconds")
    head += ("image-iterations", "of full", "images", "fixed labels", "stored labels")
    head += ("teachers", "teacher", "cell")
    body = []
    for cell in sorted(cells, key=lambda c: c.ipc):
        s = cell.summary
        similar = s["within_class_similarity"] or {}
        teacher, share = s.get("teacher"), s.get("fraction_of_full")
        body.append(
            (
                cell.method,
                str(cell.ipc),
                *(f"{similar[n]:.3f}" if n in similar else "–" for n in _SETS),
                seconds_in_words(s),
                _grouped(s.get("image_iterations")),
                "–" if share is None else f"{100 * share:.2f} %",
                _grouped(sum(cell.sizes.images)),
                *(_grouped(cell.sizes.labels.get(regime)) for regime in ("fixed", "stored")),
                _grouped(cell.sizes.teachers),
                _teacher_in_words(teacher, for_page),
                cell.name,
            )
        )
    return Table(head, body)


def _seconds(summary: dict[str, Any]) -> float | None:
    """Seconds that the images of a set took, recovered, or learned with its experts.

    None where the set was imported, or its experts are gone.
    """
    seconds = summary["seconds"]
    if seconds.get("learn") is None:
        return seconds.get("recover")
    of_experts = seconds.get("experts", 0.0)
    return None if of_experts is None else seconds["learn"] + of_experts


def seconds_in_words(summary: dict[str, Any]) -> str:
    """Seconds that the images of a set took, a dash where that is not known."""
    seconds = _seconds(summary)
    return "–" if seconds is None else f"{seconds:.1f}"


def _teacher_in_words(teacher: dict[str, Any] | None, for_page: bool) -> str:
    """A teacher's architecture, accuracy and, off the page, hash; a dash where there is none."""
    if teacher is None:
        return "–"
    hashed = f" ({teacher['hash']})" * (not for_page)
    return f"{teacher['model']} {tables.percent(teacher['accuracy'])}{hashed}"


def _grouped(number: int | None) -> str:
    """A whole number with commas; a dash where there is none."""
    return "–" if number is None else f"{number:,}"


def as_markdown(verdict: Sequence[str], parts: Sequence[Section]) -> str:
    """The verdict, and all tables with their titles."""
    texts = ["# Comparison"]
    for sentence in verdict:
        texts += ["", sentence]
    for part in parts:
        texts += ["", f"## {part.title}", *tables.as_text([part])]
    return "\n".join(texts) + "\n"


def as_csv(cells: Sequence[CellResult]) -> bytes:
    """A line per row in full: accuracies as fractions, then its cell's figures, ids, and command.

    Bytes are those of the row's images and of its kind of labels (see `sizes.WORDS`), empty where
    they are not known; what belongs to a synthetic set is empty for baselines.
    """
    of_row = ["student", "regime", "ipc", "learning_rate", "seeds", "last_mean", "last_std"]
    of_row += ["best_mean", "best_std", "calibration", "protocol"]
    of_set = [*(f"similarity_{name}" for name in _SETS), "recover_seconds", "image_iterations"]
    of_set += ["fraction_of_full", "distilled"]
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    ends = ["image_bytes", "label_bytes"]
    ends += ["teacher", "teacher_accuracy", "cell", "scored_on", "scores", "command"]
    out.writerow(["images", "is_baseline", *of_row, *of_set, *ends])
    for line in lines(cells):
        s, row = line.cell.summary, line.row
        similar = s["within_class_similarity"] or {}
        made = [similar.get(name) for name in _SETS]
        made += [_seconds(s), s.get("image_iterations"), s.get("fraction_of_full")]
        made.append(s["distilled"])
        if line.is_baseline:
            made = [None] * len(of_set)
        sizes = line.cell.sizes
        known: list[Any] = [sizes.of_images(row, line.is_baseline), sizes.of_labels(row)]
        teacher = s.get("teacher") or {}
        known += [teacher.get("hash"), teacher.get("accuracy"), line.cell.name]
        values = [getattr(row, name) for name in of_row]
        known += [line.cell.scored_on, " ".join(row.scores), s["command"]]
        out.writerow([row.image_set, int(line.is_baseline), *values, *made, *known])
    return text.getvalue().encode()
