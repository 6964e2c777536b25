"""Comparisons: flags, what cells share, tables of cells made by hand, and a real grid."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from processes import ROOT, ended

from delt_jax import compare, main
from delt_jax.comparison import cells as grid
from delt_jax.comparison import figures as comparison_figures
from delt_jax.comparison import reuse
from delt_jax.comparison import tables as comparison_tables
from delt_jax.comparison.sizes import RealSizes, Sizes
from delt_jax.comparison.tables import CellResult
from delt_jax.config import cli, derive, from_config
from delt_jax.config.arguments import of_a_recipe
from delt_jax.data import open_source
from delt_jax.data.digits import open_digits
from delt_jax.errors import UserError
from delt_jax.evaluation.metrics import ScoreRow
from delt_jax.recipe import Recipe, TeacherRecipe
from delt_jax.stages import squeeze
from delt_jax.store import files, locks
from delt_jax.store.workdir import WorkDir

TINY = """
from delt_jax.config import default_config, vary

ROWS = {"noise": {"recover.round_iterations": 0, "select.start": "noise"}}


def get_config(variants=""):
    config = default_config()
    config.data.flip = False
    config.teacher.width = config.evaluate.width = 8
    config.teacher.epochs = config.evaluate.epochs = 1
    config.recover.iterations = 2
    config.recover.round_iterations = 1
    config.evaluate.regimes = ("hard",)
    config.evaluate.images = ("recovered", "random")
    config.recover.batch_size = config.evaluate.batch_size = 10  # fewer programs to compile
    config.relabel.rand_augment = ""
    config.relabel.mix = "none"
    config.report.nearest = False
    vary(config, variants, ROWS, __file__)
    return config
"""


def row(images, ipc, scores, last=0.5, regime="hard", protocol="p: 1 epoch"):
    ids = [f"{images}-{regime}-{ipc}-{i}" for i in range(2)] if scores is None else scores
    return ScoreRow("conv3", regime, images, ipc, 1e-3, protocol, 2, last, 0.01, last, 0.02,
               [last] * 2, 0.1, ids)  # fmt: skip


def cell(method, ipc, rows, iterations=100, **label_bytes):
    similar = {"real": [0.5, 0.7], "start": [0.5, None], "recovered": [0.6, 0.4]}
    return CellResult(
        method,
        f"{method}-ipc{ipc}",
        {
            "ipc": ipc,
            "class_names": ["cat", "dog"],
            "teacher": {"model": "conv3", "accuracy": 0.9, "hash": "7ea"},
            "distilled": f"set-{method}-{ipc}",
            "image_iterations": iterations * ipc,
            "fraction_of_full": 0.6375,
            "within_class_similarity": {"real": 0.6, "start": 0.5, "recovered": 0.4321}
            if ipc > 1
            else None,
            "similarity_per_class": similar if ipc > 1 else None,
            "command": f"make <{method}> {ipc}",
            "scores": [r.as_dict() for r in rows],
            "seconds": {"recover": 12.34},
            "scored_on": "test images",
            "made": {"machine": "1 x cpu", "date": "2026-11-22"},
        },
        Sizes(2, (100,) * ipc, {"fixed": 40} | label_bytes, 5000, RealSizes(50, 10.0)),
    )


@pytest.fixture
def cells():
    """Two methods at IPC 1 and 4 whose baselines are the same, but for those at 4 with labels."""
    shared = [row("random", 1, None, 0.2)]
    full = row("full", 0, ["full-0"], 0.95)
    return [
        cell("a", 1, [row("recovered", 1, ["a1"], 0.3), *shared, full]),
        cell("b", 1, [row("recovered", 1, ["b1"], 0.4), *shared, full]),
        cell(
            "a",
            4,
            [
                row("recovered", 4, ["a4"], 0.6),
                row("recovered", 1, ["a4:1"], 0.25),
                row("random", 4, ["ra"], 0.3, "stored"),
                row("recovered", 4, ["a4s"], 0.7, "stored"),
                full,
            ],
            stored=9000,
        ),
        cell("b", 4, [row("random", 4, ["rb"], 0.35, "stored", "q: 2 epochs")]),
    ]


def test_equal_baselines_are_one_line(cells):
    listed = comparison_tables.lines(cells)
    found = [(x.row.regime, x.row.image_set, x.row.ipc, x.cell.name) for x in listed]
    assert found == [
        ("hard", "a", 1, "a-ipc1"),
        ("hard", "b", 1, "b-ipc1"),
        ("hard", "a, first of 4", 1, "a-ipc4"),
        ("hard", "random", 1, "a-ipc1"),
        ("hard", "a", 4, "a-ipc4"),
        ("hard", "full", 0, "a-ipc1"),
        ("stored", "a", 4, "a-ipc4"),
        ("stored", "random (of a)", 4, "a-ipc4"),
        ("stored", "random (of b)", 4, "b-ipc4"),
    ]
    assert [x.is_baseline for x in listed] == [x.row.image_set[0] in "rf" for x in listed]


def test_of_many_owners_the_first_is_named(cells):
    """As methods of one selection rule beside one of another."""
    four = [replace(cells[-1], method=name) for name in "wxyz"]
    listed = comparison_tables.lines([cells[-2], *four])
    whose = {x.row.image_set for x in listed if x.is_baseline and x.row.regime == "stored"}
    assert whose == {"random (of a)", "random (of w and 3 more)"}


def test_tables_carry_ids_protocols_and_commands(cells):
    parts = {part.title: part for part in comparison_tables.sections(cells, ["c-ipc1"])}
    assert list(parts) == ["Accuracy", "Sets by protocol", "Synthesis", "Commands"]
    accuracy = parts["Accuracy"]
    assert accuracy.above[:2] == ["Protocol 1, p: 1 epoch.", "Protocol 2, q: 2 epochs."]
    assert accuracy.above[-1] == "Not finished: c-ipc1."
    assert accuracy.table.body[4] == (
        *("conv3", "hard", "a", "4", "60.00 ± 1.00", "60.00 ± 2.00", "10.00", "2", "1"),
        *("408", "a4", "a-ipc4"),
    )
    teacher = "conv3 90.00 % (7ea)"
    assert parts["Synthesis"].table.body[0] == (
        *("a", "1", "–", "–", "–", "12.3", "100", "63.75 %", "100", "40", "–", "5,000"),
        *(teacher, "a-ipc1"),
    )
    assert parts["Synthesis"].table.body[2][2:11] == (
        *("0.432", "0.500", "0.600", "12.3", "400", "63.75 %", "400", "40", "9,000"),
    )
    assert ("a-ipc4", "make <a> 4") in parts["Commands"].table.body
    text = comparison_tables.as_markdown([], list(parts.values()))
    assert text.startswith("# Comparison\n\n## Accuracy\nProtocol 1, p: 1 epoch.\n\n")
    assert "| random (of b) |" in text


def test_csv_has_every_figure(cells):
    listed = list(csv.DictReader(io.StringIO(comparison_tables.as_csv(cells).decode())))
    by_ids = {line["scores"]: line for line in listed}
    stored = by_ids["a4s"]
    assert (stored["last_mean"], stored["last_std"], stored["best_std"]) == ("0.7", "0.01", "0.02")
    assert (stored["image_bytes"], stored["label_bytes"]) == ("400", "9000")
    assert stored["image_iterations"] == "400"
    assert (stored["similarity_recovered"], stored["recover_seconds"]) == ("0.4321", "12.34")
    assert (stored["distilled"], stored["command"]) == ("set-a-4", "make <a> 4")
    assert by_ids["a1"]["label_bytes"] == "2"  # of hard labels
    assert by_ids["a1"]["similarity_recovered"] == ""
    random = by_ids["ra"]
    assert (random["is_baseline"], random["distilled"]) == ("1", "")
    assert (random["image_bytes"], random["label_bytes"]) == ("80", "9000")
    assert random["teacher_accuracy"] == "0.9"


@pytest.mark.parametrize("channels", [1, 3])
def test_sheet_has_a_method_per_row(channels):
    draw = np.random.default_rng(0)
    shape = (2, 3, 28, 28, channels)
    rows = {name: draw.integers(0, 250, shape, np.uint8) for name in ("real", "method")}
    png = comparison_figures.side_by_side(rows, ["cat", "a name wider than its three images"])
    page = np.asarray(Image.open(io.BytesIO(png)))
    found = []
    for name, images in rows.items():
        for c, i in np.ndindex(2, 3):
            wanted = np.broadcast_to(images[c, i], (28, 28, 3)).repeat(2, 0).repeat(2, 1)
            windows = np.lib.stride_tricks.sliding_window_view(page[..., 0], (56, 56))
            corners = np.argwhere((windows[..., 0, :8] == wanted[0, :8, 0]).all(-1))
            y, x = next(p for p in corners if (page[p[0] :, p[1] :][:56, :56] == wanted).all())
            found.append((name, c, i, y, x))
    tops = {name: {y for n, _, _, y, _ in found if n == name} for name in rows}
    assert all(len(ys) == 1 for ys in tops.values())
    assert max(tops["real"]) + 56 < max(tops["method"])
    lefts = [x for name, *_, x in found if name == "real"]
    assert lefts == sorted(lefts) == [x for name, *_, x in found if name == "method"]


def test_configs_and_their_variants():
    text = "configs/a.py,x/b.py:p,q,folder=/data/c.py,d.py:r,a.py,digits,mnist:cda,p,nist:cda"
    assert compare.split_configs(text) == (
        "configs/a.py",
        "x/b.py:p,q,folder=/data/c.py",
        "d.py:r",
        "a.py",
        "digits",
        "mnist:cda,p",
        "nist:cda",
    )
    assert grid.method_of("x/b.py:p,folder=/data/c") == "b:p,folder=/data/c"
    assert grid.folder_of("b:p,folder=/data/c") == "b-p-folder=-data-c"


CONFIGS = "--configs=configs/digits.py"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, ["--workdir is missing"]),
        (["--workdir=W"], 2, ["--configs is missing"]),
        ([CONFIGS, "--workdir=W", "--ipc=1,ten"], 2, ["whole numbers", "'ten'"]),
        ([CONFIGS, "--workdir=W", "--seeds=0"], 2, ["seeds", "0"]),
        ([CONFIGS, "--workdir=W", "--stages=rank"], 2, ["stages"]),
        ([CONFIGS, "--workdir=W", "digits"], 2, ["'digits'"]),
        ([CONFIGS, "--workdir=W", "--config.ipc=3"], 2, ["is --ipc here"]),
        ([CONFIGS, "--workdir=W", "--config.seed", "3"], 2, ["--config.seed=VALUE"]),
        (["--configs=configs/digit.py", "--workdir=W"], 1, ["digit.py", "no such file"]),
        (["--configs=configs/digits.py:sre3l", "--workdir=W"], 1, ["is no variant", "sre2l"]),
        (
            ["--configs=configs/imagenet.py:ipc", "--workdir=W"],
            1,
            ["'ipc' is no number of images per"],
        ),
        ([CONFIGS, "--workdir=W", "--ipc=1,1000"], 1, ["digits at ipc 1000", "lower ipc"]),
        ([CONFIGS, "--workdir=W", "--config.recover.iteratons=5"], 1, ["recover.iterations?"]),
        ([CONFIGS + ",W.py", "--workdir=W"], 1, ["W.py", "no such file"]),
        ([CONFIGS, "--workdir=setup.cfg"], 1, ["is a file"]),
        ([CONFIGS, "--workdir=configs"], 1, ["not a comparison's"]),
    ],
)
def test_bad_input_is_one_sentence_before_anything_runs(
    arguments, status, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    given = [a.replace("=W", f"={tmp_path}/W") for a in arguments]
    assert compare.main(["compare", *given]) == status
    out, errors = capsys.readouterr()
    assert out == ""
    assert len(errors.strip().splitlines()) == 1
    assert all(word in errors for word in words), errors
    assert not (tmp_path / "W").exists()


def test_two_recipes_of_one_name(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tiny.py").write_text(TINY)
    configs = [str(tmp_path / name / "tiny.py") for name in ("x", "y")]
    with pytest.raises(UserError, match="would share the folder tiny-ipc1"):
        grid.plan(configs, [1], tmp_path / "run")


def test_only_what_was_made_from_the_same_inputs_is_shared(tmp_path):
    recipe = Recipe(teacher=TeacherRecipe(width=8, epochs=1))
    source = open_digits(recipe.data)
    origin, ours, another = (WorkDir(tmp_path / name) for name in ("origin", "ours", "another"))
    origin.open(recipe)
    origin.close()
    (origin.path / "teacher").mkdir()
    inputs = squeeze.inputs(recipe, source, origin)
    files.write_json(origin.path / "teacher/manifest.json", {"inputs": inputs, "hash": "h"})
    (origin.path / "cache").mkdir()
    (origin.path / "cache/pixels.npy").write_bytes(b"decoded")
    different = replace(recipe, teacher=replace(recipe.teacher, epochs=2))
    for workdir, settings in ((ours, recipe), (another, different)):
        reuse.link_finished(settings, source, workdir, [origin])
        assert (workdir.path / "cache/pixels.npy").read_bytes() == b"decoded"
    theirs = origin.path / "teacher/manifest.json"
    assert (ours.path / "teacher/manifest.json").samefile(theirs)
    assert not (another.path / "teacher").exists()
    assert sorted(p.name for p in ours.path.iterdir() if p.name != ".lock") == [
        *("cache", "config.json", "teacher"),
    ]


@pytest.mark.exhaustive  # teachers are shared above
def test_a_set_is_shared_by_cells_whose_students_train_otherwise(tmp_path):
    config = "configs/digits.py:dm,ipc1"
    learned = [f"--config.learn.{change}" for change in ("steps=1", "width=4", "real_batch=2")]
    arguments = of_a_recipe(str(ROOT / config), str(tmp_path / "first"), learned)
    recipe = from_config(arguments.config)
    source = open_digits(recipe.data)
    recipe, _ = derive.complete(recipe, source)
    first, second, third = (WorkDir(tmp_path / name) for name in ("first", "second", "third"))
    main.run(arguments.config, str(first.path), ["learn"])
    other = replace(recipe, evaluate=replace(recipe.evaluate, protocol="idc"))
    longer = replace(recipe, learn=replace(recipe.learn, steps=2))
    for workdir, settings in ((second, other), (third, longer)):
        reuse.link_finished(settings, source, workdir, [first])
    mine = second.path / "distilled/manifest.json"
    assert mine.samefile(first.path / "distilled/manifest.json")
    assert not (third.path / "distilled").exists()


def test_a_second_comparison_on_a_folder_is_one_sentence(tmp_path, capsys):
    lock = locks.take(tmp_path / ".lock")
    flags = [f"--configs={ROOT}/configs/digits.py", f"--workdir={tmp_path}"]
    with lock:
        assert compare.main(["compare", *flags]) == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert errors[-1].startswith(f"delt_jax: Another comparison is at work in {tmp_path}")
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    (folder / "tiny.py").write_text(TINY)
    configs = f"--configs={folder}/tiny.py:noise,{folder}/tiny.py"
    return [configs, "--ipc=1,2", "--seeds=1", f"--workdir={folder}/run"]


def start(tiny):
    """The comparison in a process of its own; programs that one has compiled serve the next."""
    cache = {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(folder_of(tiny).parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "delt_jax.compare", *tiny],
        cwd=ROOT,
        env={**os.environ, **cache, "JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def folder_of(tiny):
    return Path(tiny[-1].partition("=")[2])


@pytest.mark.exhaustive  # commands/test_python.py has a comparison
def test_grid_that_is_killed_goes_on(tiny, capsys):
    folder, process = folder_of(tiny), start(tiny)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (folder / "cells/tiny-noise-ipc1/distilled").exists():
            break
        time.sleep(0.05)
    process.kill()
    status, said, errors = ended(process)
    assert status == -signal.SIGKILL, errors
    assert "cell 1 of 4, tiny-noise-ipc1" in said
    assert not (folder / "comparison.md").exists()

    status, said, errors = ended(start(tiny))
    assert status == 0, errors
    assert said.count("squeeze: taken from tiny-") == 3
    assert said.count("rank: taken from tiny-") == 1  # noise needs none
    assert "cell 4 of 4, tiny-ipc2: python -m delt_jax.main --config=" in said
    names = ["tiny-ipc1", "tiny-ipc2", "tiny-noise-ipc1", "tiny-noise-ipc2"]
    assert sorted(p.name for p in (folder / "cells").iterdir()) == names
    logs = "".join((folder / "cells" / n / "metrics.jsonl").read_text() for n in names)
    lines = [json.loads(line) for line in logs.splitlines()]
    trained = [x for x in lines if x["stage"] == "squeeze" and "test_accuracy" in x]
    assert len(trained) == 1
    assert len([x for x in lines if x["stage"] == "rank"]) == 1
    # one seed of 4 recovered sets, and of the random ones of 2 IPC
    assert len(list((folder / "scores").glob("*.json"))) == 4 + 2
    listed = list(csv.DictReader((folder / "comparison.csv").open()))
    assert [(x["images"], x["ipc"]) for x in listed] == [
        (images, ipc) for ipc in "12" for images in ("tiny:noise", "tiny", "random")
    ]
    assert [x["image_iterations"] for x in listed] == ["20", "20", "", "40", "30", ""]
    assert len({x["teacher"] for x in listed}) == 1
    for x in listed:  # a byte for each label, and images of 8 x 8 pixels
        count = 10 * int(x["ipc"])
        assert int(x["label_bytes"]) == count
        assert 60 * count < int(x["image_bytes"]) < 200 * count
    for x in listed:
        assert all((folder / "scores" / f"{i}.json").exists() for i in x["scores"].split())
        assert f"--workdir={folder}/cells/{x['cell']} " in x["command"]
    assert {p.name for p in (folder / "figures").iterdir()} == {
        *("accuracy_ipc.svg", "accuracy_compute.svg", "accuracy_bytes.svg", "diversity.svg"),
        *("sheet_ipc1.png", "sheet_ipc2.png"),
    }
    page = (folder / "comparison.html").read_text()
    assert "Not finished" not in page
    assert page.count("<img") == 2 * 3 * 10  # real images and two methods
    assert re.search(r'verdict">At 2 images per class, .*tiny', page)

    before = (folder / "comparison.csv").read_bytes()
    assert compare.main(["compare", *tiny]) == 0
    assert capsys.readouterr().out.count("finished before") == 4
    assert (folder / "comparison.csv").read_bytes() == before


def test_dry_run_touches_nothing(tiny, tmp_path, capsys):
    given = [*tiny[:-1], f"--workdir={tmp_path}/run", "--config.recover.iterations=8"]
    assert compare.main(["compare", *given, "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "Grid of 4 cells, 1 different teacher(s)" in said
    assert re.search(r"\| tiny-ipc2 +\| 150 +\| 93.75 % +\| 2 +\| squeeze: not done yet", said)
    assert not (tmp_path / "run").exists()


def test_a_cell_leaves_no_compiled_programs(tmp_path, monkeypatch):
    """They take memory mappings, of which a process has only so many."""
    given = ["compare", f"--config={ROOT}/configs/digits.py", f"--workdir={tmp_path}/cell"]
    recipe, arguments = Recipe(), cli.parse(given)
    cell = grid.Cell("a", arguments, recipe, open_source(recipe.data), WorkDir(tmp_path / "cell"))
    program = jax.jit(lambda x: x + 1)
    monkeypatch.setattr(grid.run_lib, "run", lambda *a, **k: program(1.0))
    cell.run()
    assert program._cache_size() == 0
    program(1.0)
    assert program._cache_size() == 1


def test_the_others_go_on_if_asked(tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.py").write_text(TINY)
    given = [f"--configs={tmp_path}/tiny.py", "--ipc=1,2", f"--workdir={tmp_path}/run"]
    ran = []

    def fail(cell):
        ran.append(cell.name)
        raise UserError("The disk is full.")

    monkeypatch.setattr(grid.Cell, "run", fail)
    assert compare.main(["compare", *given]) == 1
    assert ran == ["tiny-ipc1"]
    sentence = "delt_jax: cell 1 of 2, tiny-ipc1: The disk is full.\n"
    assert capsys.readouterr().err == sentence
    assert compare.main(["compare", *given, "--keep_going"]) == 1
    assert ran == ["tiny-ipc1", "tiny-ipc1", "tiny-ipc2"]
    assert capsys.readouterr().err == sentence + sentence.replace("1 of", "2 of").replace(
        "ipc1", "ipc2"
    )


def test_tables_and_cells_are_mirrored(tmp_path, monkeypatch, bucket, capsys):
    (tmp_path / "tiny.py").write_text(TINY)
    given = [f"--configs={tmp_path}/tiny.py", "--ipc=1,2", f"--workdir={tmp_path}/run"]
    given.append("--mirror=gs://b/all")
    done = set()

    def run(cell):
        done.add(cell.name)
        cell.folder.open(cell.recipe)
        cell.folder.close()

    monkeypatch.setattr(grid.Cell, "run", run)
    monkeypatch.setattr(grid.Cell, "state", lambda cell: (cell.name not in done, "it is new"))
    monkeypatch.setattr(
        grid, "write", lambda folder, cells: files.write_json(folder / "comparison.md", len(done))
    )
    bucket.works = lambda call, path: call != "put"
    assert compare.main(["compare", *given]) == 1  # every cell was made, whatever the store said
    assert len(done) == 2
    assert "the next run copies what is missing" in capsys.readouterr().err
    bucket.works = lambda call, path: True
    assert compare.main(["compare", *given]) == 0
    inner = {f"cells/tiny-ipc{ipc}/{name}.json" for ipc in (1, 2) for name in ("config", "mirror")}
    at_top = {"mirror.json", "comparison.json", "comparison.md"}
    assert bucket.below("gs://b/all").keys() >= at_top | inner
    assert bucket.objects["b/all/comparison.md"] == b"2\n"


def test_help_lists_the_flags(capsys):
    with pytest.raises(SystemExit):
        compare.main(["compare", "--help"])
    said = capsys.readouterr().out
    for flag in ("--configs", "--ipc", "--seeds", "--workdir", "dry_run", "keep_going"):
        assert flag in said
