"""The functions of `delt_jax`, their page and their notebook, in programs of somebody else."""

import asyncio
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import ml_collections
import numpy as np
import pytest
from tiny_run import stop_after, tiny

import delt_jax
from delt_jax.config import cli, default_config, from_config, overrides
from delt_jax.core import stopping
from delt_jax.recipe import SETTINGS
from delt_jax.runtime import compile_cache, environment

ROOT = Path(__file__).parents[2]
NOTEBOOK = json.loads((ROOT / "docs/digits.ipynb").read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An empty folder, to be in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("python"))
        yield Path.cwd()


def quick(code):
    """The example with less of everything."""
    small = '"teacher.width": 8, "evaluate.width": 8, "recover.round_iterations": 4, '
    code = re.sub(r'(?=("teacher.epochs": )\d+)', small, code)
    fewer = {
        "teacher.epochs": 1,
        "recover.iterations": 8,
        "evaluate.epochs": 2,
        "evaluate.seeds": 2,
    }
    for name, number in fewer.items():
        code = re.sub(rf'"{name}": \d+', f'"{name}": {number}', code)
    return code


# As a kernel runs cells, on a user's CPU: with XLA's optimiser, one device, and a loop that runs.
KERNEL = """
import asyncio, json, sys

async def kernel(names):
    for cell in json.load(open(sys.argv[1]))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)

asyncio.run(kernel(names := {}))
assert names["again"] == names["result"]
assert {row.image_set for row in names["result"].scores} == {"recovered", "random"}
assert names["path"].is_file()
"""


@pytest.fixture(scope="module")
def notebook(place, tmp_path_factory):
    """What the notebook prints, run from an empty folder, which then has its run."""
    file = tmp_path_factory.mktemp("notebook") / "digits.ipynb"
    cells = [cell | {"source": [quick("".join(cell["source"]))]} for cell in NOTEBOOK["cells"]]
    file.write_text(json.dumps({"cells": cells}))
    own = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment = {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KERNEL, file],
        env=own | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.exhaustive  # its functions are called below
def test_the_notebook_runs_from_an_empty_folder(notebook, place):
    assert "recovered: " in notebook
    assert notebook.count("done, nothing changed") == 6
    assert "did you mean recover.iterations?" in notebook
    assert (place / "runs/digits/report/sheet.png").is_file()


def test_the_notebook_shows_what_came_of_it():
    code = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = [kind for cell in code for out in cell["outputs"] for kind in out.get("data", ())]
    assert kinds.count("image/png") >= 2
    assert "text/markdown" in kinds
    assert not [o for cell in code for o in cell["outputs"] if o["output_type"] == "error"]
    before = [
        a["cell_type"]
        for a, b in zip(NOTEBOOK["cells"], NOTEBOOK["cells"][1:], strict=False)
        if b["cell_type"] == "code"
    ]
    assert set(before) == {"markdown"}  # a sentence for every cell
    assert (ROOT / "docs/digits.ipynb").stat().st_size < 150_000


@pytest.mark.exhaustive  # its run is the notebook's
def test_the_page_shows_what_works(notebook, place):
    page = (ROOT / "docs/python.md").read_text()
    example, recipe = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(example.strip().splitlines()) <= 15
    names: dict = {}
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(quick(example), names)  # its run is the notebook's
    assert out.getvalue().count("done, nothing changed") == 6
    assert "| conv3   | online | recovered | 5 " in out.getvalue()
    assert names["data"].images.shape == (50, 8, 8, 1)
    exec(recipe, names)
    assert from_config(names["config"]).recover.iterations == 100


PROGRAM = """
import signal, sys
import delt_jax

signal.signal(signal.SIGINT, signal.default_int_handler)  # which jobs in the background ignore

assert "absl" not in sys.modules
from absl import flags

heavy = {"jax", "flax", "matplotlib", "numpy", "ml_collections"}
assert not heavy & {name.split(".")[0] for name in sys.modules}
for name in ("config", "workdir", "stages", "dry_run", "verify", "configs", "to", "out"):
    flags.DEFINE_string(name, "", "the program's own")
flags.FLAGS(["program"])

data = delt_jax.load(sys.argv[1])
delt_jax.export_set(sys.argv[1], "folder", sys.argv[2])
assert not {"jax", "flax", "delt_jax.config.cli"} & set(sys.modules)

import asyncio, jax
jax.config.update("jax_enable_x64", True)
jax.numpy.zeros(1)

async def main():
    return delt_jax.run("digits", sys.argv[3], {"teacher.epochs": 1}, stages="squeeze")

result = asyncio.run(main())
assert result.manifests.keys() == {"squeeze"}, result
assert result.distilled is result.report is None
assert jax.config.jax_enable_x64
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert flags.FLAGS["workdir"].help == "the program's own"
print("all of it")
"""


@pytest.mark.exhaustive  # loops, threads and signals are tested below
def test_a_program_with_flags_and_a_loop_of_its_own(tiny_ranked, place, tmp_path):
    recovered = tmp_path / "run"
    shutil.copytree(tiny_ranked, recovered)
    delt_jax.run(tiny(), recovered, stages=["recover"])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, recovered, tmp_path / "set", tmp_path / "new"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all of it\n")


def test_results_are_of_these_settings_alone(tiny_ranked, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_ranked, folder)
    config = tiny()
    first = delt_jax.run(config, str(folder), stages=["recover"])
    assert list(first.manifests) == ["squeeze", "rank", "recover"]
    assert first.distilled == folder / "distilled"
    assert first.load().images.shape == (30, 8, 8, 1)
    assert (first.scores, first.report, dict(first.pictures)) == ((), None, {})
    assert str(first) == f"no scores in {folder}"
    other = delt_jax.run(config, folder, {"recover.iterations": 6}, "recover", dry_run=True)
    assert other.distilled is None
    with pytest.raises(delt_jax.UserError, match="has no distilled set of these settings"):
        other.load()
    assert config.recover.iterations == 4  # the caller's own


def test_outside_the_main_thread(tiny_ranked, tmp_path):
    shutil.copytree(tiny_ranked, tmp_path / "run")
    found = []

    def work():
        found.append(delt_jax.run(tiny(), tmp_path / "run", stages=["squeeze", "rank"]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert list(found[0].manifests) == ["squeeze", "rank"]


def test_an_interrupt_ends_the_call_and_the_next_one_goes_on(tiny_ranked, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(tiny_ranked, folder)
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            delt_jax.run(tiny(), folder, stages=["recover"])
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert (folder / "distilled.partial").is_dir()
    assert delt_jax.run(tiny(), folder, stages=["recover"]).distilled


def test_a_second_interrupt_is_not_noted_but_obeyed(monkeypatch):
    monkeypatch.setattr(stopping, "_TWICE", 0.0)  # house: private, because tests cannot wait
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    reached = []

    def work():
        with stopping.borrowing():
            signal.raise_signal(signal.SIGINT)
            reached.append("after the first")
            signal.raise_signal(signal.SIGINT)
            reached.append("after the second")

    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    assert reached == ["after the first"]
    assert not stopping.requested()


def test_handlers_of_the_program_stay(monkeypatch):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with stopping.borrowing():
            signal.raise_signal(signal.SIGTERM)
            assert not stopping.requested()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("digits", "runs/x", {"recover.iteratons": 1}), "did you mean recover.iterations?"),
        (("digits", "runs/x", {"recover.iterations": 2.5}), "must be of type int, but is 2.5"),
        (("digits", "runs/x", {"recover": 1}), "There is no setting recover"),
        (("digits:sre3l", "runs/x"), "is no variant of this recipe"),
        (("no/such.py", "runs/x"), "there is no such"),
        ((3, "runs/x"), "not int"),
        (("digits", ""), "workdir is empty"),
        (("digits", "runs/x", {}, ["recovr"]), "did you mean recover?"),
    ],
)
def test_bad_input_is_an_exception_with_one_sentence(place, arguments, sentence):
    with pytest.raises(delt_jax.UserError) as caught:
        delt_jax.run(*arguments)
    assert sentence in str(caught.value)
    assert not (place / "runs/x").exists()


def test_overrides_are_what_the_command_line_would_set():
    values = {
        "ipc": 3,
        "data.flip": False,
        "data.path": "a folder, and more",
        "recover.learning_rate": 1e-07,
        "recover.terms": ("class_bn=10", "barycentre=1"),
        "evaluate.students": ("conv3", "conv4"),
        "evaluate.smaller": (1, 5),
        "evaluate.learning_rates": (0.01,),
        "teacher.others": (),
        "relabel.rand_augment": "",
        "evaluate.epochs": 7,
    }
    given = overrides.apply(default_config(), values)
    typed = overrides.parse(default_config(), overrides.as_flags(values))
    assert from_config(given) == from_config(typed) != from_config(default_config())
    command = ["main", f"--config={ROOT}/configs/digits.py", "--workdir=x"]
    parsed = cli.parse(
        [*command, *overrides.as_flags({n: values[n] for n in ("ipc", "data.flip")})]
    )
    assert parsed.config.ipc == 3
    assert overrides.apply(
        ml_collections.ConfigDict({"ipc": 2}), {"data.flip": False}
    ).to_dict() == {
        "ipc": 2,
        "data": {"flip": False},
    }
    with pytest.raises(delt_jax.UserError, match=r"evaluate\.epochs cannot be None"):
        overrides.as_flags({"evaluate.epochs": None})
    assert SETTINGS["evaluate.epochs"].default is None


def test_a_comparison_returns_its_rows(tmp_path, capsys):
    (tmp_path / "tiny.py").write_text(
        "from tiny_run import tiny\n\ndef get_config(variants=''):\n    return tiny()\n"
    )
    less = {
        "evaluate.regimes": ("hard",),
        "evaluate.images": ("recovered",),
        "report.nearest": False,
    }
    recipe, folder = tmp_path / "tiny.py", tmp_path / "compared"
    planned = delt_jax.compare_runs(recipe, folder, ipc=1, overrides=less, dry_run=True)
    assert (planned.report, dict(planned.cells), planned.scores) == (None, {}, ())
    assert "Grid of 1 cells" in capsys.readouterr().out
    assert not folder.exists()
    made = delt_jax.compare_runs([recipe], folder, [1], seeds=1, overrides=less)
    assert list(made.cells) == ["tiny-ipc1"]
    assert [(row.image_set, row.seeds) for row in made.scores] == [("tiny", 1)]
    assert made.report.is_file()
    assert made.failed == ()
    assert made.load("tiny-ipc1").images.shape == (10, 8, 8, 1)
    assert "| conv3   | hard   | tiny " in str(made)
    assert "--config.evaluate.seeds=1" in (folder / "comparison.json").read_text()
    with pytest.raises(
        delt_jax.UserError, match="There is no finished cell 'x'; there are tiny-ipc1"
    ):
        made.load("x")
    for wrong, sentence in (
        ({"configs": []}, "name one recipe"),
        ({"ipc": (1, -1)}, "a whole number or several"),
        ({"overrides": {"evaluate.seeds": 2}}, "is the argument seeds here"),
    ):
        with pytest.raises(delt_jax.UserError, match=sentence):
            delt_jax.compare_runs(**{"configs": recipe, "workdir": folder, **wrong})


def test_an_export_names_what_it_wrote(tmp_path):
    images = np.arange(2 * 16, dtype=np.uint8).reshape(2, 4, 4, 1)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(2, dtype=np.int32))
    names = ("cat", "dog")
    out = delt_jax.export_set(tmp_path / "set.npz", "folder", class_names=names)
    assert out == tmp_path / "set-folder"
    assert delt_jax.load(out).class_names == names
    for wrong, sentence in (({"to": "zip"}, "--to takes one of"), ({"quality": 101}, "0 to 100")):
        with pytest.raises(delt_jax.UserError, match=sentence):
            delt_jax.export_set(**{"source": out, "to": "npz", **wrong})


def test_many_runs_in_a_process_free_their_programs(monkeypatch, tmp_path):
    freed = []
    monkeypatch.setattr(compile_cache, "free", lambda: freed.append(1))
    (tmp_path / "most").write_text("100\n")
    monkeypatch.setattr(compile_cache, "MOST_MAPPINGS", tmp_path / "most")
    for count, expected in ((20, 0), (40, 1)):
        (tmp_path / "maps").write_text("a mapping\n" * count)
        monkeypatch.setattr(compile_cache, "MAPPINGS", tmp_path / "maps")
        compile_cache.free_many()
        assert len(freed) == expected


def test_xla_is_not_given_flags_that_it_has_read_before(monkeypatch):
    """Else manifests would say that runs repeat."""
    np.asarray(jax.numpy.zeros(1))  # it has started
    monkeypatch.setattr(environment, "expected_backend", lambda: "gpu")
    monkeypatch.setenv("XLA_FLAGS", "")
    environment.import_jax()
    assert os.environ["XLA_FLAGS"] == ""
    assert not environment.repeats()


def test_a_call_within_a_running_loop(tiny_ranked, tmp_path):
    shutil.copytree(tiny_ranked, tmp_path / "run")

    async def call():
        return delt_jax.run(tiny(), tmp_path / "run", stages=["squeeze", "rank"], verify=True)

    assert list(asyncio.run(call()).manifests) == ["squeeze", "rank"]
