"""Tables, charts and CSV of cells made by hand, to the letter."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from delt_jax.comparison import figures, sizes, tables
from delt_jax.comparison.sizes import RealSizes, Sizes
from delt_jax.comparison.tables import CellResult
from delt_jax.data.digits import open_digits
from delt_jax.errors import UserError
from delt_jax.evaluation.metrics import ScoreRow
from delt_jax.recipe import DataRecipe
from delt_jax.store import files


def row(images, ipc, ids, last=0.5, **changed) -> ScoreRow:
    values = {
        "student": "conv3",
        "regime": "hard",
        "learning_rate": 0.01,
        "protocol": "p: 1 epoch",
        "seeds": 2,
        "last_std": 0.01,
        "best_mean": last + 0.1,
        "best_std": 0.02,
        "per_class": [last, last],
        "calibration": 0.125,
    }
    return ScoreRow(
        image_set=images, ipc=ipc, last_mean=last, scores=ids.split(), **(values | changed)
    )


def cell(method, ipc, rows, similar=True, **changed) -> CellResult:
    labels = changed.pop("labels", {"fixed": 1234})
    made = Sizes(2, (100,) * ipc, labels, changed.pop("teachers", 5000), RealSizes(50, 9.5))
    per_class = {"real": [0.5, 0.7], "start": [0.5, 0.6], "recovered": [0.25, 0.75]}
    summary = {
        "ipc": ipc,
        "class_names": ["cat", "dog"],
        "teacher": {"model": "conv3", "accuracy": 0.87654, "hash": "7ea"},
        "distilled": f"set-{method}-{ipc}",
        "image_iterations": 12345,
        "fraction_of_full": 0.6375,
        "within_class_similarity": {"recovered": 0.25, "start": 0.5, "real": 0.75}
        if similar
        else None,
        "similarity_per_class": per_class if similar else None,
        "command": f"make {method} {ipc}",
        "scores": [r.as_dict() for r in rows],
        "seconds": {"recover": 12.34},
        "scored_on": "test images",
        "made": {"machine": "2 x cpu", "date": "2026-11-22"},
    }
    return CellResult(method, f"{method}-ipc{ipc}", summary | changed, made)


ONE = cell("own", 4, [row("recovered", 4, "a b", 0.25), row("random", 4, "c", 0.5)])


def csv_of(cells):
    return list(csv.DictReader(io.StringIO(tables.as_csv(cells).decode())))


def test_a_line_of_the_csv_by_hand():
    assert tables.as_csv([ONE]).decode() == (
        "images,is_baseline,student,regime,ipc,learning_rate,seeds,last_mean,last_std,best_mean,"
        "best_std,calibration,protocol,similarity_recovered,similarity_start,similarity_real,"
        "recover_seconds,image_iterations,fraction_of_full,distilled,image_bytes,label_bytes,"
        "teacher,teacher_accuracy,cell,scored_on,scores,command\n"
        "own,0,conv3,hard,4,0.01,2,0.25,0.01,0.35,0.02,0.125,p: 1 epoch,0.25,0.5,0.75,12.34,12345,"
        "0.6375,set-own-4,400,8,7ea,0.87654,own-ipc4,test images,a b,make own 4\n"
        "random,1,conv3,hard,4,0.01,2,0.5,0.01,0.6,0.02,0.125,p: 1 epoch,,,,,,,,76,8,7ea,0.87654,"
        "own-ipc4,test images,c,make own 4\n"
    )


@pytest.mark.parametrize(
    ("regime", "size"),
    [("hard", "8"), ("plain", "8"), ("fixed", "1234"), ("stored", "99"), ("online", "5000")],
)
def test_label_bytes_are_those_of_the_regime(regime, size):
    made = cell(
        "own", 4, [row("recovered", 4, "a", regime=regime)], labels={"fixed": 1234, "stored": 99}
    )
    assert csv_of([made])[0]["label_bytes"] == size


def test_bytes_of_parts_of_a_set_and_of_real_images():
    made = Sizes(300, (1000, 500, 300, 200), {"fixed": 2400}, 7000, RealSizes(60_000, 9.5))
    first = row("recovered", 2, "a")
    assert (made.of_images(first, False), made.of_labels(first)) == (1500, 2 * 600)
    assert made.of_row(row("recovered", 2, "a", regime="fixed"), False) == 1500 + 1200
    assert made.of_row(row("random", 4, "a", regime="online"), True) == 11_400 + 7000
    assert made.of_row(row("full", 0, "a"), True) == 570_000 + 120_000
    assert made.of_row(row("random", 4, "a", regime="stored"), True) is None
    alone = replace(made, teachers=None, real=None)
    for image_set, regime in (("recovered", "online"), ("random", "hard"), ("full", "hard")):
        one = row(image_set, 0 if image_set == "full" else 4, "a", regime=regime)
        assert alone.of_row(one, image_set != "recovered") is None


def test_a_set_without_similarity_leaves_its_cells_empty():
    bare = cell("own", 1, [row("recovered", 1, "a")], similar=False)
    line = csv_of([bare])[0]
    assert [line[f"similarity_{name}"] for name in ("recovered", "start", "real")] == [""] * 3
    parts = {part.title: part for part in tables.sections([bare])}
    assert parts["Synthesis"].table.body[0][2:5] == ("–", "–", "–")


def test_the_line_of_synthesis_by_hand():
    parts = {part.title: part for part in tables.sections([ONE])}
    assert parts["Synthesis"].table.head == (
        *("method", "IPC", "similarity recovered", "similarity start", "similarity real"),
        *("seconds", "image-iterations", "of full", "images", "fixed labels", "stored labels"),
        *("teachers", "teacher", "cell"),
    )
    assert parts["Synthesis"].table.body == [
        (
            *("own", "4", "0.250", "0.500", "0.750", "12.3", "12,345", "63.75 %", "400", "1,234"),
            *("–", "5,000", "conv3 87.65 % (7ea)", "own-ipc4"),
        )
    ]
    assert parts["Synthesis"].above[0] == "Made on 2 x cpu, 2026-11-22."
    stored = cell("own", 4, [row("recovered", 4, "a")], labels={"fixed": 1, "stored": 12345})
    (line,) = {part.title: part for part in tables.sections([stored])}["Synthesis"].table.body
    assert line[9:11] == ("1", "12,345")


def test_words_around_the_tables():
    accuracy, synthesis, commands = tables.sections([ONE])
    assert accuracy.above == [
        "Protocol p: 1 epoch.",
        "Test accuracy in %, mean ± sample standard deviation.",
        sizes.WORDS,
        "Real images: random; all else are recipes.",
    ]
    assert accuracy.table.head[-3:] == ("bytes", "scores", "cell")
    assert accuracy.table.body[0] == (
        *("conv3", "hard", "own", "4", "25.00 ± 1.00", "35.00 ± 2.00", "12.50", "2", "408", "a b"),
        "own-ipc4",
    )
    assert commands.table == tables.Table(("cell", "command"), [("own-ipc4", "make own 4")])
    assert synthesis.title == "Synthesis"
    alone = cell("own", 4, [row("recovered", 4, "a")])
    assert len(tables.sections([alone])[0].above) == 3  # no baseline, nothing unfinished
    unfinished = tables.sections([alone], ["x", "y"])[0].above
    assert unfinished[3:] == ["Not finished: x, y."]


def test_students_stand_side_by_side_if_there_are_several():
    two = cell(
        "own", 4, [row("recovered", 4, "a"), row("recovered", 4, "b", 0.75, student="vgg11")]
    )
    parts = tables.sections([two])
    assert [p.title for p in parts] == [
        "Accuracy",
        "Students side by side",
        "Synthesis",
        "Commands",
    ]
    assert parts[1].table.body == [("hard", "own", "4", "50.00 ± 1.00", "75.00 ± 1.00")]
    assert parts[1].above == ["Test accuracy after the last epoch in %."]


def test_accuracies_on_other_images_are_called_so():
    held_out = cell("own", 4, [row("recovered", 4, "a")], scored_on="validation images")
    words = tables.sections([ONE, held_out])[0].above
    assert words[1].startswith("Accuracy on test images and validation images, in %")


def test_lines_by_student_regime_ipc_and_kind():
    cells = [
        cell(
            "own",
            4,
            [
                row("full", 0, "f"),
                row("random", 4, "r4"),
                row("recovered", 4, "o4"),
                row("recovered", 4, "os", regime="stored"),
                row("recovered", 1, "o1"),
                row("random", 1, "r1"),
                row("recovered", 4, "v", student="vgg11"),
            ],
        )
    ]
    listed = tables.lines(cells)
    assert [line.row.scores[0] for line in listed] == ["o1", "r1", "o4", "r4", "f", "os", "v"]
    assert [line.is_baseline for line in listed] == [False, True, False, True, True, False, False]
    assert [line.row.image_set for line in listed][:3] == ["own, first of 4", "random", "own"]


def test_whose_a_baseline_is():
    """Shared scores are told once; of two owners both are named, of three the first."""

    def of(*methods):
        cells = [cell(m, 4, [row("random", 4, "shared")]) for m in methods]
        cells.append(cell("other", 4, [row("random", 4, "own")]))
        return [line.row.image_set for line in tables.lines(cells)]

    assert of("a") == ["random (of a)", "random (of other)"]
    assert of("a", "b") == ["random (of a, b)", "random (of other)"]
    assert of("a", "b", "c") == ["random (of a and 2 more)", "random (of other)"]
    alone = tables.lines([cell(m, 4, [row("random", 4, "shared")]) for m in "ab"])
    assert [(line.row.image_set, line.cell.name) for line in alone] == [("random", "a-ipc4")]


def test_cells_are_in_the_order_of_their_size():
    cells = [cell("a", 10, []), cell("b", 1, []), cell("a", 2, [])]
    parts = {part.title: part for part in tables.sections(cells)}
    assert [line[1] for line in parts["Synthesis"].table.body] == ["1", "2", "10"]


def drawn(monkeypatch, cells):
    """What the charts are given."""
    found = {}
    monkeypatch.setattr(
        figures,
        "accuracy_chart",
        lambda panels, baselines, x: found.update({x: (panels, baselines)}),
    )
    monkeypatch.setattr(
        figures,
        "diversity_chart",
        lambda panels, names: found.update({"diversity": (panels, names)}),
    )
    found["files"] = list(tables.charts(cells))
    return found


def test_charts_are_of_the_first_student_and_of_sets_with_a_size(monkeypatch):
    rows = [
        row("recovered", 4, "a", 0.25),
        row("recovered", 2, "b", 0.125),
        row("random", 4, "c", 0.5),
        row("random", 2, "e", 0.375),
        row("full", 0, "f", 0.9),
        row("recovered", 4, "d", 0.75, student="vgg11"),
    ]
    found = drawn(monkeypatch, [cell("own", 4, rows)])
    charts = ["accuracy_ipc.png", "accuracy_compute.png", "accuracy_bytes.png"]
    assert found["files"] == [*charts, "diversity.png"]
    panels, baselines = found["images per class"]
    assert panels == {
        "conv3, hard": {
            "own, first of 4": [(2, 0.125, 0.01)],
            "own": [(4, 0.25, 0.01)],
            "random": [(2, 0.375, 0.01), (4, 0.5, 0.01)],
        }
    }
    assert baselines == {"random"}
    panels, _ = found["image-iterations"]
    assert panels == {
        "conv3, hard": {
            "own": [(12345, 0.25, 0.01)],
            "random": [(0, 0.375, 0.01), (0, 0.5, 0.01)],
        }
    }
    panels, _ = found["bytes of images and labels"]
    assert panels == {
        "conv3, hard": {
            "random": [(42, 0.375, 0.01), (84, 0.5, 0.01)],
            "own, first of 4": [(204, 0.125, 0.01)],
            "own": [(408, 0.25, 0.01)],
        }
    }
    panels, names = found["diversity"]
    assert names == ["cat", "dog"]
    assert list(panels) == ["IPC 4"]
    np.testing.assert_array_equal(panels["IPC 4"]["real"], [0.5, 0.7])
    np.testing.assert_array_equal(panels["IPC 4"]["own"], [0.25, 0.75])


def test_diversity_is_of_cells_with_the_same_classes(monkeypatch):
    cells = [
        cell("a", 10, [row("recovered", 10, "a")]),
        cell("b", 2, [], class_names=["cat", "owl"]),
        cell("c", 1, [], similar=False),
        cell("d", 2, []),
        cell("e", 10, []),
        cell("f", 10, [], class_names=["dog", "cat"]),
    ]
    panels, _ = drawn(monkeypatch, cells)["diversity"]
    assert list(panels) == ["IPC 2", "IPC 10"]
    assert {name: list(panel) for name, panel in panels.items()} == {
        "IPC 2": ["real", "d"],
        "IPC 10": ["real", "a", "e"],
    }
    none = drawn(monkeypatch, [cell("c", 1, [row("recovered", 1, "a")], similar=False)])
    assert none["files"] == ["accuracy_ipc.png", "accuracy_compute.png", "accuracy_bytes.png"]


def test_what_no_size_is_known_of_is_left_out_of_its_chart(monkeypatch):
    rows = [row("recovered", 4, "a", regime="online"), row("random", 4, "b", regime="online")]
    assert (
        "accuracy_bytes.png"
        not in drawn(monkeypatch, [cell("own", 4, rows, teachers=None)])["files"]
    )


def test_real_images_alone_give_no_chart_over_their_number(monkeypatch):
    assert drawn(monkeypatch, [cell("a", 1, [row("full", 0, "f")], similar=False)])["files"] == []


def test_the_page_has_tables_before_and_after_the_pictures():
    pictures = {"sheet_ipc4.png": b"s", "diversity.png": b"d", "accuracy_ipc.png": b"a"}
    page = tables.page(tables.sections([ONE]), pictures)
    order = [
        "<h1>Comparison</h1>",
        "Accuracy</h2>",
        "<h2>Accuracy over images per class</h2>",
        "<h2>Similarity of teacher features within a class</h2>",
        "<h2>Images at IPC 4</h2>",
        "Synthesis</h2>",
        "Commands</h2>",
    ]
    places = [page.index(text) for text in order]
    assert places == sorted(places)
    assert page.count("<img") == 3
    assert "accuracy_compute" not in page
    assert tables.sheet_caption("sheet_ipc10.png") == (
        "Images at IPC 10, those that join first on the left of each class."
    )


def test_markdown_has_titles_and_ends_with_a_line():
    text = tables.as_markdown(tables.sections([ONE]))
    titles = [line for line in text.splitlines() if line.startswith("#")]
    assert titles == ["# Comparison", "## Accuracy", "## Synthesis", "## Commands"]
    assert text.startswith(
        "# Comparison\n\n## Accuracy\nProtocol p: 1 epoch.\n\nTest accuracy in %"
    )
    assert text.endswith(" |\n")


def write_cell(folder, stored=None, weights=("7ea", "0e1")):
    """What a cell has on disk of two classes of two images, and of two networks that label."""
    others = [{"folder": "teachers/a", "hash": "0e1", "accuracy": 0.5}]
    spec = {"name": "conv3", "num_classes": 2, "image_size": 8, "channels": 1, "width": 4}
    teacher = {"spec": spec, "normalisation": {"mean": [0.5], "std": [0.25]}, "accuracy": 0.5}
    labels = {"bytes": 55, "teacher": {"hash": "7ea"}, "more_teachers": [{"hash": "0e1"}]}
    manifests = {
        "summary.json": ONE.summary,
        "config.json": {"settings": {"relabel.teachers": []}},
        "soft_labels/manifest.json": labels | ({"stored": {"bytes": stored}} if stored else {}),
        "distilled/manifest.json": {
            **{"class_names": ["cat", "dog"], "ipc": 2, "storage": "png", "hash": "d"},
        },
        "teacher/manifest.json": teacher
        | {"class_names": ["cat", "dog"], "hash": weights[0], "others": others},
        "teachers/a/manifest.json": teacher | {"class_names": ["cat", "dog"], "hash": weights[1]},
    }
    for name, content in manifests.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / name, content)
    for name, count in (("teacher", 4000), ("teachers/a", 300)):
        (folder / name / "weights.safetensors").write_bytes(b"x" * count)
    for c in (0, 1):
        (folder / f"distilled/images/0000{c}").mkdir(parents=True)
        for rank in (0, 1):
            path = folder / f"distilled/images/0000{c}/0000{rank}.png"
            path.write_bytes(b"x" * (10 + 100 * rank + c))


@pytest.mark.parametrize("stored", [None, 77])
def test_a_cell_is_read_from_its_folder(tmp_path, stored):
    folder = tmp_path / "own-ipc4"
    write_cell(folder, stored)
    read = tables.read(folder, "own", RealSizes(3, 2.5))
    assert (read.method, read.name, read.summary) == ("own", "own-ipc4", ONE.summary)
    labels = {"fixed": 55} | ({"stored": 77} if stored else {})
    assert read.sizes == Sizes(2, (21, 221), labels, 4300, RealSizes(3, 2.5))
    assert (read.ipc, read.scored_on) == (4, "test images")


def test_a_network_that_is_gone_has_no_size_and_an_image_that_is_gone_is_named(tmp_path):
    write_cell(tmp_path, weights=("7ea", "other"))
    assert sizes.of_folder(tmp_path).teachers is None
    (tmp_path / "distilled/images/00001/00000.png").unlink()
    with pytest.raises(UserError, match=r"00001/00000\.png is missing"):
        sizes.of_folder(tmp_path)


def test_real_images_are_measured_as_png():
    source = open_digits(DataRecipe())
    real = sizes.of_real_images(source)
    assert real.count == len(source.train)
    assert 60 < real.bytes_each < 200  # of 8 x 8 pixels


def test_a_class_of_a_single_image_has_no_similarity(monkeypatch):
    """None in the file, and no number in the chart."""
    per_class = {"real": [None, 0.5], "start": [None, None], "recovered": [0.25, None]}
    one = cell("own", 4, [row("recovered", 4, "a")], similarity_per_class=per_class)
    panels, _ = drawn(monkeypatch, [one])["diversity"]
    for values in panels["IPC 4"].values():
        assert values.dtype == float
    np.testing.assert_array_equal(panels["IPC 4"]["real"], [np.nan, 0.5])
    np.testing.assert_array_equal(panels["IPC 4"]["own"], [0.25, np.nan])


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1200, 21000, [2000, 5000, 10000, 20000]),
        (3, 5000, [10, 100, 1000]),
        (10, 10, [10]),
        (11, 19, [11]),
    ],
)
def test_ticks_are_round_numbers(low, high, ticks):
    assert figures.round_numbers(low, high) == ticks
