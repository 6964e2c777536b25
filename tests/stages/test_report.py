"""The report of artefacts made by hand: complete, traceable, and of whatever rows there are."""

import csv
import html
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from delt_jax import models
from delt_jax.data import ArrayExamples, Normalisation, Source
from delt_jax.evaluation.metrics import Score, aggregate
from delt_jax.formats import distilled
from delt_jax.models import ModelSpec
from delt_jax.recipe import Recipe, ReportRecipe
from delt_jax.recovery.schedule import make_schedule
from delt_jax.runtime import devices
from delt_jax.stages import report
from delt_jax.store import files
from delt_jax.store.workdir import WorkDir
from delt_jax.teachers import teacher as teacher_lib
from delt_jax.teachers.teacher import Teacher

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import readme_table

CLASSES = ("cat & dog", "bird", "<fish>")
MADE = {"date": "2026-11-22", "machine": "2 x cpu"}
COMMAND = "python -m delt_jax.main --config=configs/digits.py --workdir=runs/<x>"


def make_source() -> Source:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (60, 8, 8, 1), np.uint8)
    labels = np.tile(np.arange(3, dtype=np.int32), 20)
    train = ArrayExamples(pixels, labels, [f"train/{i}" for i in range(60)])
    test = ArrayExamples(pixels[:9], labels[:9], [f"test/{i}" for i in range(9)])
    return Source("pets", CLASSES, 8, 1, train, test, "fingerprint")


SOURCE = make_source()


def score(student="conv3", regime="online", images="recovered", ipc=4, seed=0, last=0.5):
    """A training whose confusion is that of its accuracy in hundredths."""
    right = round(100 * last)
    confusion = [[right, 100 - right, 0], [100 - right, right, 0], [0, 100 - right, right]]
    return Score(
        id=f"{student}-{regime}-{images}-{ipc}-{seed}",
        student=student,
        regime=regime,
        image_set=images,
        ipc=ipc,
        seed=seed,
        learning_rate=1e-3,
        protocol="delt with epochs 2: 2 epochs",
        last=last,
        best=last + 0.01,
        best_epoch=1,
        history=[[1, last + 0.01], [2, last]],
        per_class=[last] * 3,
        confusion=confusion,
        calibration=0.125,
        seconds=1.0,
    )


def everything() -> list[Score]:
    return [
        score(student, regime, images, ipc, seed, last + seed / 100 + shift)
        for student, shift in (("conv3", 0.0), ("vgg11", 0.1), ("alexnet", -0.1))
        for regime, images, ipc, last in (
            *(("online", "recovered", 4, 0.7), ("online", "random", 4, 0.6)),
            *(("hard", "recovered", 4, 0.5), ("hard", "random", 4, 0.4)),
            *(("plain", "recovered", 4, 0.3), ("plain", "random", 4, 0.2)),
            *(("online", "recovered", 1, 0.25), ("hard", "full", 0, 0.8)),
        )
        for seed in range(2)
    ]


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    spec = ModelSpec("conv3", 3, 8, 1, 4)
    blank = np.zeros((2, 8, 8, 1), np.float32)
    variables = models.create(spec).init(jax.random.key(0), blank, train=False)
    variables = {k: jax.tree.map(np.asarray, variables[k]) for k in ("params", "batch_stats")}
    return Teacher(spec, variables, Normalisation((0.5,), (0.25,)), CLASSES, 0.75)


def workdir_of(
    folder: Path,
    teacher: Teacher,
    scores: list[Score],
    ipc: int = 4,
    imported: bool = False,
    command: str = COMMAND,
) -> WorkDir:
    """A run that lacks nothing but its report; each image is a start image made brighter."""
    (folder / "teacher").mkdir(parents=True)
    teacher_lib.save(folder / "teacher", teacher, {"inputs": {}, "seconds": 3.0})
    by_class = [np.flatnonzero(SOURCE.train.labels == c)[:ipc] for c in range(3)]
    starts = np.stack(by_class)
    images = np.minimum(SOURCE.train.pixels[starts.reshape(-1)], 245) + 10
    manifest = {
        "inputs": {},
        "class_names": CLASSES,
        "ipc": ipc,
        "storage": "png",
        "image_size": 8,
        "channels": 1,
        "hash": distilled.write_images(folder / "distilled", images.astype(np.uint8), ipc),
    }
    if imported:
        manifest["imported"] = {"layout": "new000"}
    else:
        schedule = make_schedule(3, ipc, 4, 2, 12)
        manifest |= {
            "normalisation": {"mean": [0.5], "std": [0.25]},
            "start": {"indices": starts.tolist()},
            "settings": {
                "recover": {
                    "iterations": 4,
                    "round_iterations": 2,
                    "batch_size": 12,
                    "layout": "class_major",
                },
                "select": {},
            },
            "schedule": {
                "class_iterations": [4, 4, 4],
                "image_iterations": sum(b.image_iterations for b in schedule),
                "fraction": 0.75,
            },
            "cost_seconds": 2.0,
            "made": MADE,
        }
        values = np.random.default_rng(0).uniform(1, 2, (1, 4)).astype(np.float32)
        losses = {"loss": values, "cross_entropy": values / 2, "bn": values * 3}
        losses["further"] = np.zeros_like(values)
        files.write_npz(folder / "distilled" / "losses.npz", **losses)
    files.write_json(folder / "distilled" / "manifest.json", manifest)
    (folder / "evaluation").mkdir()
    files.write_json(folder / "evaluation" / "scores.json", [s.as_dict() for s in scores])
    evaluation = {
        "inputs": {},
        "class_names": CLASSES,
        "hash": "of the evaluation",
        "rows": [r.as_dict() for r in aggregate(scores)],
        "protocols": list(dict.fromkeys(s.protocol for s in scores)),
        "command": command,
        "scored_on": "test images",
        "seconds": 12.5,
    }
    files.write_json(folder / "evaluation" / "manifest.json", evaluation)
    return WorkDir(folder)


def made(folder: Path, teacher: Teacher, scores, recipe: Recipe | None = None, **how):
    """Runs the report; its folder, its page and the summary."""
    workdir = workdir_of(folder, teacher, scores, **how)
    report.run(recipe or Recipe(), SOURCE, workdir)
    page = (folder / "report/report.html").read_text()
    return folder / "report", page, json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def complete(teacher, tmp_path_factory):
    return made(tmp_path_factory.mktemp("complete") / "run", teacher, everything())


def test_every_file_is_there(complete):
    folder, page, _ = complete
    assert sorted(p.name for p in folder.iterdir()) == [
        *("accuracy.svg", "confusion.svg", "diversity.svg", "fresh_views.csv", "ipc.svg"),
        *("losses.svg", "manifest.json", "nearest.csv", "nearest.png", "per_class.svg"),
        *("report.html", "schedule.svg", "scores.csv", "scores.md", "sheet.png"),
    ]
    assert page.count("data:image/png;base64,") == 2 * 3  # start and nearest of each class
    assert page.count("<svg") == 9 + 1 + 1 + 1 + 1 + 1 + 3  # nine rows, three losses
    assert not re.search("https?:", page)


def test_the_page_tells_the_verdict_first_and_how_it_was_made_last(complete):
    _, page, summary = complete
    order = [
        *map(html.escape, summary["verdict"]),
        "points over random real images",
        *("The images</h2>", "Nearest real images</h3>", "What students learn from them</h2>"),
        *("What the images teach", "Classes</h3>", "Fewer images</h3>", "Confusion</h3>"),
        *("Scores</h3>", "Students side by side</h3>", "Robustness</h3>"),
        *("Order of architectures</h3>", "Fresh views</h3>", "How the set was made</h2>"),
        *("Scores made by", "Diversity</h3>", "Schedule</h3>", "Losses</h3>", "<details>"),
    ]
    places = [page.index(words) for words in order]
    assert places == sorted(places)


def test_the_page_names_command_protocol_and_classes_safely(complete):
    _, page, summary = complete
    assert "--workdir=runs/&lt;x&gt;</pre>" in page
    assert "runs/<x>" not in page
    assert "<fish>" not in page
    assert page.count("&lt;fish&gt;") > 4
    assert page.count("Protocol delt with epochs 2: 2 epochs.") == 1
    assert summary["command"] == COMMAND
    assert summary["protocols"] == ["delt with epochs 2: 2 epochs"]


def test_a_page_made_again_is_the_same_and_says_when_the_set_was_made(
    complete, teacher, tmp_path, monkeypatch
):
    """Whatever day it is, and on whatever machine."""
    _, before, summary = complete
    assert summary["made"] == MADE
    assert "2026-11-22, 2 x cpu" in before
    monkeypatch.setattr(devices, "here_and_now", lambda: {"date": "x", "machine": "y"})
    folder, again, _ = made(tmp_path / "run", teacher, everything())
    assert again == before
    for path in complete[0].iterdir():
        if path.name != "manifest.json":
            assert (folder / path.name).read_bytes() == path.read_bytes(), path.name


def test_every_row_carries_the_ids_of_its_scores(complete):
    folder, page, summary = complete
    ids = {s.id for s in everything()}
    assert {i for r in summary["scores"] for i in r["scores"]} == ids
    with open(folder / "scores.csv") as f:
        lines = list(csv.DictReader(f))
    assert {i for line in lines for i in line["scores"].split()} == ids
    text = (folder / "scores.md").read_text()
    for i in ids:
        assert i in text
        assert i in page
    for scores in (summary["robustness"], summary["rank_correlations"]):
        assert {i for s in scores for i in s["scores"]} <= ids
        assert all(s["scores"] for s in scores)


def test_scores_across_rows(complete):
    _, _, summary = complete
    last = next(r for r in summary["robustness"] if r["student"] == "conv3")
    assert last["epoch"] == "last"
    assert last["hlr"] == pytest.approx(0.3)
    assert last["ior"] == pytest.approx(0.1)
    assert last["ars"] == pytest.approx(0.3137, abs=5e-5)  # both gains are 0.1
    assert last["missing"] == {}
    ranks = {(r["regime"], r["epoch"]): r["spearman"] for r in summary["rank_correlations"]}
    assert ranks[("online", "last")] == pytest.approx(1)
    assert set(ranks) == {(r, e) for r in ("online", "hard", "plain") for e in ("last", "best")}


def test_nearest_images_are_the_brightened_ones(complete):
    folder, page, summary = complete
    with open(folder / "nearest.csv") as f:
        lines = list(csv.DictReader(f))
    found = [int(line["pixels_any_index"]) for line in lines]
    assert found == [3 * rank + c for c in range(3) for rank in range(4)]  # their starts
    n = summary["nearest"]
    assert (n["near_copies"], n["near_copies_among_real"]) == (1, 0)
    assert 0.03 < n["median_rms"] <= 10 / 255 < 0.2 < n["median_rms_among_real"]
    assert "below 0.05 for 100.0 % of the synthetic images" in page


def test_the_tables_are_printed(teacher, tmp_path, capsys):
    made(tmp_path / "run", teacher, everything())
    out = capsys.readouterr().out
    assert "| conv3   | online | recovered | 4   | 70.50 ± 0.71 |" in out
    assert "Protocol delt with epochs 2" in out
    assert "| Spearman" in out
    assert "conv3-online-recovered-4-0" not in out
    *last, gains, classes, place = out.rstrip().splitlines()[-(4 + 24 + 3) :]  # 8 rows of each
    assert last[:2] == ["Protocol delt with epochs 2: 2 epochs.", ""]
    assert last[2].startswith("| student | labels | images ")
    assert all(line.startswith("|") for line in last[2:])
    assert gains.startswith("Recovered against random real images, for conv3, the first of ")
    assert classes.startswith("No class is far below the others; lowest with ")
    assert place == f"report: {tmp_path}/run/report/report.html"


def test_a_run_of_one_student_prints_nothing_else(teacher, tmp_path, capsys):
    """As the README shows it."""
    made(tmp_path / "run", teacher, [score(), score("conv3", "online", "random")])
    begun, blank, protocol, *rest = capsys.readouterr().out.splitlines()
    assert begun == "  measuring the images and drawing the pages"
    assert (blank, protocol) == ("", "Protocol delt with epochs 2: 2 epochs.")
    assert [line[:1] for line in rest] == ["", "|", "|", "|", "|", "R", "N", "r"]


def test_least_rows_of_one_image_per_class(teacher, tmp_path):
    scores = [score("conv3", "hard", "recovered", 1)]
    recipe = Recipe(report=ReportRecipe(nearest=False))
    folder, page, summary = made(tmp_path / "run", teacher, scores, recipe, ipc=1, command="")
    assert "Scores made by" not in page
    assert sorted(p.name for p in folder.glob("*.[ps][nv]g")) == [
        *("accuracy.svg", "confusion.svg", "losses.svg", "per_class.svg", "schedule.svg"),
        "sheet.png",
    ]
    assert not (folder / "nearest.csv").exists()
    assert "nearest" not in summary
    assert summary["within_class_similarity"] is None
    assert summary["rank_correlations"] == []
    assert summary["robustness"][0]["missing"]["HLR"] == "not trained on full images (hard)"
    assert "Robustness" not in page
    assert "Students side by side" not in page


def test_imported_set(teacher, tmp_path):
    scores = [score(seed=seed) for seed in range(2)]
    folder, page, summary = made(tmp_path / "run", teacher, scores, imported=True)
    assert sorted(p.name for p in folder.glob("*.[ps][nv]g")) == [
        *("accuracy.svg", "confusion.svg", "diversity.svg", "nearest.png", "per_class.svg"),
        "sheet.png",
    ]
    assert "imported from the layout new000" in page
    assert "Schedule" not in page
    assert "Made on" not in page
    assert "made" not in summary
    assert summary["imported"] == {"layout": "new000"}


def test_a_run_of_baselines_only_has_no_charts_of_scores(teacher, tmp_path):
    recipe = Recipe(report=ReportRecipe(nearest=False))
    folder, page, summary = made(tmp_path / "run", teacher, [score(images="random")], recipe)
    assert not {"confusion.svg", "per_class.svg"} & {p.name for p in folder.iterdir()}
    assert "how well the images teach is not known" in page
    assert summary["robustness"] == []
    assert "random" in page


def test_confusion_of_many_classes_is_left_out(teacher, tmp_path):
    recipe = Recipe(report=ReportRecipe(nearest=False))
    folder, _, _ = made(tmp_path / "run", teacher, [replace(score(), confusion=[])], recipe)
    assert not (folder / "confusion.svg").exists()
    assert (folder / "per_class.svg").exists()


def test_the_setting_is_an_input(teacher, tmp_path):
    workdir = workdir_of(tmp_path / "run", teacher, [score()])
    with_it = report.inputs(Recipe(), SOURCE, workdir)
    without = report.inputs(Recipe(report=ReportRecipe(nearest=False)), SOURCE, workdir)
    assert {k for k in with_it if with_it[k] != without[k]} == {"report.nearest"}


def test_the_readme_quotes_a_run(complete):
    text = "\n".join(readme_table.describe(complete[0].parent))
    assert "Protocol delt with epochs 2" in text
    assert "70.50 ± 0.71" in text
    assert "conv3-online" not in text
