"""benchmarks/results_table.py: from a comparison's rows to the tables of docs/results.md."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import measured
import results_table

from delt_jax.comparison import tables as comparison_tables
from delt_jax.comparison.sizes import Sizes
from delt_jax.errors import UserError
from delt_jax.evaluation.metrics import ScoreRow

COMMAND = "python -m delt_jax.compare --configs=configs/digits.py:cda --workdir=runs/compare"


def row(images, ipc, last, regime="hard", seeds=3):
    means = (last, 0.0123, last, 0.02)
    ids = [f"{images}{ipc}"]
    return ScoreRow(
        "conv3", regime, images, ipc, 1e-3, "p: 1 epoch", seeds, *means, [last], 0.1, ids
    )


def compared(folder, scored_on="test images", last=0.6):
    """A comparison of two methods at IPC 1, one of them also at 10, in its own files."""
    asked = {
        ("digits", 1): [row("recovered", 1, 0.5), row("random", 1, 0.4)],
        ("digits:cda", 1): [row("recovered", 1, 0.3), row("random", 1, 0.4)],
        ("digits", 10): [row("recovered", 10, last), row("full", 0, 0.9, seeds=1)],
    }
    cells = []
    for (method, ipc), rows in asked.items():
        name = f"{method.replace(':', '-')}-ipc{ipc}"
        summary = {
            "ipc": ipc,
            "teacher": {"model": "conv3", "accuracy": 0.95, "hash": "t1"},
            "distilled": "d1",
            "image_iterations": 5,
            "fraction_of_full": 0.5,
            "within_class_similarity": None,
            "command": f"python -m delt_jax.main --config=configs/{method.replace(':', '.py:')}"
            + ("" if ":" in method else ".py"),
            "scored_on": scored_on,
            "scores": [r.as_dict() for r in rows],
            "seconds": {"recover": 1.0},
            "made": {"machine": "1 x cpu", "date": "2026-11-22"},
        }
        (folder / "cells" / name).mkdir(parents=True)
        (folder / "cells" / name / "summary.json").write_text(json.dumps(summary))
        sizes = Sizes(10, (100,) * ipc, {"fixed": 4}, 5000)
        cells.append(comparison_tables.CellResult(method, name, summary, sizes))
    (folder / "comparison.csv").write_bytes(comparison_tables.as_csv(cells))
    (folder / "comparison.json").write_text(json.dumps({"command": COMMAND}))
    return folder


def test_rows_become_a_table_of_methods_by_images_per_class(tmp_path):
    lines = results_table.table(results_table.read(compared(tmp_path)))
    assert lines[0] == "### digits: conv3, hard labels"
    assert lines[2:8] == [
        "| images | IPC 1 | IPC 10 | all images |",
        "|---|---|---|---|",
        "| digits | 50.00 ± 1.23 (3) | 60.00 ± 1.23 (3) | – |",
        "| cda | 30.00 ± 1.23 (3) | – | – |",
        "| random | 40.00 ± 1.23 (3) | – | – |",
        "| full | – | – | 90.00 |",
    ]
    text = "\n".join(lines)
    assert "- Protocol p: 1 epoch." in text
    assert "- Teacher t1 (95.00 %); 1 x cpu, 2026-11-22." in text
    assert f"- `{COMMAND}`" in text


def test_recipes_go_without_what_all_their_names_share():
    same = {"ipc": 1, "last_mean": 0.5, "last_std": 0.0, "seeds": 1}
    names = {"cda,protocol=common": False, "delt,protocol=common": False, "random": True}
    rows = [same | {"images": name, "is_baseline": real} for name, real in names.items()]
    shown = [line.split()[1] for line in results_table._grid(rows)[2:]]
    assert shown == ["cda", "delt", "random"]


def test_later_comparisons_replace_the_rows_that_they_measure_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measured, "ROOT", tmp_path)
    monkeypatch.setattr(measured, "_RESULTS", tmp_path / "results")
    (tmp_path / "docs").mkdir()
    begin, end = measured.markers("results_table")
    page = tmp_path / results_table.PAGE
    page.write_text(f"above\n{begin}\n{end}\nbelow\n")
    first, second = compared(tmp_path / "a"), compared(tmp_path / "b", last=0.7)
    results_table.run([str(first)])
    assert "60.00" in capsys.readouterr().out
    assert page.read_text() == f"above\n{begin}\n{end}\nbelow\n"
    results_table.run([str(first), "--write"])
    results_table.run([str(second), "--write"])
    assert "| digits | 50.00 ± 1.23 (3) | 70.00 ± 1.23 (3) | – |" in page.read_text()
    assert page.read_text().count("IPC 10") == 1
    assert page.read_text().startswith("above\n")


def test_validation_scores_and_other_files_stay_out(tmp_path):
    with pytest.raises(UserError, match=r"scores on validation images, .* is for test images"):
        results_table.read(compared(tmp_path / "a", "validation images, held out of training"))
    folder = compared(tmp_path / "b")
    (folder / "comparison.csv").write_text("images,ipc\nx,1\n")
    with pytest.raises(UserError, match=r"no table that delt_jax\.compare wrote"):
        results_table.read(folder)


def test_the_page_has_its_markers_and_says_what_is_published():
    page = (ROOT / results_table.PAGE).read_text()
    measured.fill(page, [], results_table.NAME, results_table.PAGE)
    assert page.index("# Published") < page.index("# Measured here")
