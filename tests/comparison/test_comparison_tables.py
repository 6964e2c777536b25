"""Tables, charts and CSV of cells made by hand, to the letter."""

import csv
import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from compared_cells import cell, row

from delt_jax.comparison import charts, names, page, sizes, tables, verdict
from delt_jax.comparison.sizes import RealSizes, Sizes
from delt_jax.data.digits import open_digits
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe
from delt_jax.reporting.colours import SERIES
from delt_jax.store import files

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


def learned_cell(method, protocol, value):
    """One that was learned; real images train beside, by the same protocol."""
    rows = [
        row(images, 1, f"{images}{protocol}", last, protocol=f"{protocol}: 9 epochs")
        for images, last in (("recovered", value), ("random", 0.25))
    ]
    made = cell(method, 1, rows, similar=False, distilled="one set", learned={"method": "dm"})
    for name in ("teacher", "image_iterations", "fraction_of_full"):
        del made.summary[name]
    made.summary["seconds"] = {"learn": 3.0}
    return made


def test_sets_of_both_families_stand_side_by_side_by_protocol():
    online = [row("recovered", 1, "z", 0.75, regime="online", protocol="delt: 1 epoch")]
    cells = [
        learned_cell("d:dm", "dsa", 0.5),
        learned_cell("d:dm,protocol=delt", "delt", 0.625),
        cell("d:delt", 1, online),
    ]
    found = {part.title: part.table for part in tables.sections(cells)}["Sets by protocol"]
    assert found.head == (
        *("set", "labels", "IPC", "teacher at student time", "bytes", "seconds of synthesis"),
        *("dsa", "delt"),
    )
    assert sorted(found.body) == [
        ("d:delt", "online", "1", "yes", "5,100", "12.3", "–", "75.00 ± 1.00"),
        ("d:dm", "hard", "1", "no", "102", "3.0", "50.00 ± 1.00", "62.50 ± 1.00"),
        ("random", "hard", "1", "no", "21", "none", "25.00 ± 1.00", "25.00 ± 1.00"),
    ]
    paid = charts.of_cells(cells)["accuracy_compute"]
    assert "50.0" not in "".join(panel.alt for panel in paid.panels)
    listed = csv_of(cells)[0]
    assert (listed["image_iterations"], listed["recover_seconds"]) == ("", "3.0")


@pytest.mark.parametrize(("of_experts", "said"), [(4.25, "7.2"), (None, "–")])
def test_sets_that_share_experts_count_them_each(of_experts, said):
    cells = [learned_cell(f"d:mtt{number}", "mtt", 0.5) for number in (1, 2)]
    for made in cells:
        made.summary["seconds"] = {"experts": of_experts, "learn": 3.0}
    parts = {part.title: part for part in tables.sections(cells)}
    for name in ("Sets by protocol", "Synthesis"):
        table = parts[name].table
        column = next(i for i, head in enumerate(table.head) if head.startswith("seconds"))
        found = [row[column] for row in table.body if row[0] != "random"]
        assert found == [said, said]
        assert any("which every set counts that shares them" in w for w in parts[name].above)
    total = "" if of_experts is None else "7.25"
    assert [row["recover_seconds"] for row in csv_of(cells)] == [total, total, ""]


def test_one_protocol_of_recovered_sets_needs_no_second_table():
    assert "Sets by protocol" not in {part.title for part in tables.sections([ONE])}


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


def test_charts_are_of_the_first_student_and_of_sets_with_a_size():
    rows = [
        row("recovered", 4, "a", 0.25),
        row("recovered", 2, "b", 0.125),
        row("random", 4, "c", 0.5),
        row("random", 2, "e", 0.375),
        row("full", 0, "f", 0.9),
        row("recovered", 4, "d", 0.75, student="vgg11"),
    ]
    found = charts.of_cells([cell("own", 4, rows)])
    assert list(found) == ["accuracy_ipc", "accuracy_bytes", "accuracy_compute", "diversity"]
    marks = {name: marks_of(chart) for name, chart in found.items()}
    # By IPC both random rows, the set, and its first two images; by compute only the whole set.
    assert marks["accuracy_ipc"] == {"s0": 1, "s1": 2, "s2": 1}
    assert marks["accuracy_bytes"] == {"s0": 1, "s1": 2, "s2": 1}
    assert marks["accuracy_compute"] == {"s1": 2, "s2": 1}
    assert marks["diversity"] == {"s0": 2, "s7": 2}
    (panel,) = found["accuracy_ipc"].panels
    assert panel.alt == (
        "conv3, hard labels, over images per class. Highest accuracies in percent: random 50.0, "
        "own 25.0, own, first of 4 12.5."
    )


def marks_of(chart) -> dict[str, int]:
    """How many marks of each colour a chart's fields have, in the order of the colours."""
    shapes = [s for panel in chart.panels for s in panel.shapes]
    found = Counter(s.get("class") for s in shapes if s.tag == "circle" or s.get("transform"))
    return {role: found[role] for role in sorted(found) if role in SERIES}


def test_points_of_charts_by_hand():
    rows = [row("recovered", 4, "a", 0.25), row("random", 4, "c", 0.5), row("random", 2, "e", 0.3)]
    listed = tables.lines([cell("own", 4, rows)])
    assert charts.points(listed, lambda line: line.size) == {
        ("conv3", "hard"): {
            "random": [(42, 30.0, 1.0), (84, 50.0, 1.0)],
            "own": [(408, 25.0, 1.0)],
        }
    }


def test_sets_of_a_single_ipc_stand_in_rows_the_best_on_top():
    (panel,) = charts.of_cells([ONE])["accuracy_ipc"].panels
    words = [shape.text for shape in panel.shapes if shape.tag == "text"]
    assert [word for word in words if word in ("own", "random")] == ["random", "own"]
    assert words[-1] == "accuracy, %, at 4 images per class"


def test_diversity_is_of_cells_with_the_same_classes():
    cells = [
        cell("a", 10, [row("recovered", 10, "a")]),
        cell("b", 2, [], class_names=["cat", "owl"]),
        cell("c", 1, [], similar=False),
        cell("d", 2, []),
        cell("e", 10, []),
        cell("f", 10, [], class_names=["dog", "cat"]),
    ]
    found = charts.similarities(cells)
    assert {ipc: list(panel) for ipc, panel in found.items()} == {
        2: ["real", "d"],
        10: ["real", "a", "e"],
    }
    np.testing.assert_array_equal(found[10]["real"], [0.5, 0.7])
    np.testing.assert_array_equal(found[10]["a"], [0.25, 0.75])
    assert len(charts.of_cells(cells)["diversity"].panels) == 2
    none = charts.of_cells([cell("c", 1, [row("recovered", 1, "a")], similar=False)])
    assert list(none) == ["accuracy_ipc", "accuracy_bytes", "accuracy_compute"]


def test_what_no_size_is_known_of_is_left_out_of_its_chart():
    rows = [row("recovered", 4, "a", regime="online"), row("random", 4, "b", regime="online")]
    assert "accuracy_bytes" not in charts.of_cells([cell("own", 4, rows, teachers=None)])


def test_real_images_alone_give_no_chart_over_their_number():
    assert charts.of_cells([cell("a", 1, [row("full", 0, "f")], similar=False)]) == {}


def test_charts_of_many_classes_and_of_no_cost():
    names = [str(c) for c in range(50)]
    values = np.linspace(0.1, 0.9, 50).tolist()
    rows = [row("recovered", 2, "a"), row("random", 2, "b")]
    many = cell(
        *("a", 2, rows),
        class_names=names,
        similarity_per_class={"real": values, "recovered": values[::-1]},
        image_iterations=0,
    )
    found = charts.of_cells([many])
    assert len([s for s in found["diversity"].panels[0].shapes if s.tag == "polyline"]) == 2
    assert marks_of(found["accuracy_compute"]) == {"s0": 1, "s1": 1}


def page_of(cells, missing=(), images=()):
    said = verdict.sentences(cells)
    return page.page(cells, list(missing), said, charts.of_cells(cells), images)


def test_the_page_has_its_verdict_then_pictures_then_tables():
    pixels = np.zeros((2, 3, 8, 8, 1), np.uint8)
    text = page_of([ONE], ["x-ipc1"], [page.ComparedImages(4, ["cat", "dog"], {"own": pixels})])
    order = [
        *("<h1>own</h1>", "At 4 images per class, own has 25.0 %", "Beside the best of as many"),
        *("Not finished: x-ipc1.", "Accuracy</h3>", "Accuracy against bytes</h3>"),
        *("Accuracy against compute</h3>", "Diversity</h3>", "4 images per class, those"),
        *("Accuracy</h3>\n<p", "Synthesis</h3>", "Commands", "make own 4", "Hashes", "set-own-4"),
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert text.count("<img") == 2
    assert 'alt="cat by own"' in text
    assert "7ea" not in text[: text.index("Hashes")]


def test_the_page_has_short_names_of_recipes():
    cells = [
        cell(f"x:{name},p=1", 4, [row("recovered", 4, name), row("random", 4, f"r{name}")])
        for name in ("a", "b")
    ]
    text = page_of(cells)
    assert "<h1>a and b</h1>" in text
    assert "Names are short for <code>x:NAME,p=1</code>" in text
    assert "<td>random (of a)</td>" in text
    assert "x:a,p=1" not in text[: text.index("<summary>Commands")]


def test_pictures_leave_out_what_all_names_share():
    def shared(*methods):
        parts = names.shared_parts(methods)
        return (parts.head, parts.tail, *map(parts.short, methods))

    assert shared("a:row,cda", "a:row,cda_real") == ("a:row,", "", "cda", "cda_real")
    assert shared("a:cda,p=1", "a:sre2l,p=1") == ("a:", ",p=1", "cda", "sre2l")
    assert shared("a", "a:cda") == ("", "", "a", "a:cda")
    assert shared("a:x,p", "a:x,x,p")[2:] == ("p", "x,p")
    assert shared("a:cda") == ("", "", "a:cda")


@pytest.mark.parametrize(
    ("means", "deviation", "words"),
    [
        (
            (0.6, 0.5, 0.4),
            0.01,
            "a leads with hard labels (60.0 %, 10.0 ± 0.8 points above b), bey",
        ),
        (
            (0.6, 0.59, 0.4),
            0.01,
            "a and b are level at the top with hard labels (60.0 % to 59.0 %)",
        ),
        ((0.6, 0.59, 0.59), 0.01, "a, b and c are level at the top with hard labels"),
        ((0.4, 0.5, 0.6), 0.01, "c leads with hard labels"),
    ],
)
def test_a_recipe_leads_where_chance_rarely_gives_its_lead(means, deviation, words):
    cells = [
        cell(f"x:{name}", 4, [row("recovered", 4, name, mean, last_std=deviation, seeds=3)])
        for name, mean in zip("abc", means, strict=True)
    ]
    (said,) = verdict.sentences(cells)  # no baselines
    assert said.startswith(f"At 4 images per class, {words}")


def test_one_seed_cannot_tell_who_leads():
    rows = {"a": 0.6, "b": 0.5}
    cells = [cell(f"x:{n}", 1, [row("recovered", 1, n, mean, seeds=1)]) for n, mean in rows.items()]
    assert verdict.sentences(cells) == [
        "At 1 image per class, a is 10.0 points above b with hard labels (60.0 %), of which one "
        "seed cannot tell chance."
    ]


def test_the_verdict_is_of_the_largest_number_of_images_that_most_recipes_have():
    def of(name, ipc, mean):
        return cell(name, ipc, [row("recovered", ipc, f"{name}{ipc}", mean, regime="online")])

    cells = [of("x:a", 1, 0.1), of("x:a", 10, 0.6), of("x:a", 50, 0.7), of("x:b", 1, 0.2)]
    cells.append(of("x:b", 10, 0.3))
    other = cell("x:c", 10, [row("recovered", 10, "c", 0.9)], class_names=["owl"])
    (said,) = verdict.sentences([*cells, other])
    assert said.startswith("At 10 images per class, a leads with labels for every view (60.0 %")


def test_the_verdict_names_the_first_of_several_students():
    a = row("recovered", 4, "a", 0.6, seeds=1)
    cells = [cell("x:a", 4, [a, row("recovered", 4, "b", 0.9, seeds=1, student="vgg")])]
    start = "At 4 images per class, for conv3, the first of 2 students, x:a has 60.0 %"
    assert verdict.sentences(cells)[0].startswith(start)


def test_the_verdict_names_the_best_real_images():
    rows = [row("recovered", 4, "a", 0.6), row("random", 4, "r", 0.5), row("herding", 4, "h", 0.8)]
    rows += [row("full", 0, "f", 0.99)]
    _, said = verdict.sentences([cell("x:a", 4, rows)])
    assert said == (
        "Beside the best of as many real images: with hard labels x:a is 20.0 ± 1.0 points below "
        "herding (80.0 %), beyond chance."
    )
    level = [row("recovered", 4, "a", 0.6), row("random", 4, "r", 0.6)]
    assert "x:a is level with random (60.0 %)" in verdict.sentences([cell("x:a", 4, level)])[1]
    assert verdict.sentences([cell("x:a", 4, [row("random", 4, "r", 0.6)])]) == []


def test_markdown_has_titles_and_ends_with_a_line():
    text = tables.as_markdown(["It leads."], tables.sections([ONE]))
    titles = [line for line in text.splitlines() if line.startswith("#")]
    assert titles == ["# Comparison", "## Accuracy", "## Synthesis", "## Commands"]
    assert text.startswith(
        "# Comparison\n\nIt leads.\n\n## Accuracy\nProtocol p: 1 epoch.\n\nTest accuracy in %"
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


def test_a_class_of_a_single_image_has_no_similarity():
    """None in the file, and no number in the chart."""
    per_class = {"real": [None, 0.5], "start": [None, None], "recovered": [0.25, None]}
    one = cell("own", 4, [row("recovered", 4, "a")], similarity_per_class=per_class)
    values = charts.similarities([one])[4]
    np.testing.assert_array_equal(values["real"], [np.nan, 0.5])
    np.testing.assert_array_equal(values["own"], [0.25, np.nan])
    assert marks_of(charts.of_cells([one])["diversity"]) == {"s0": 1, "s7": 1}
