"""Metrics: each point once at every writer, whatever was killed; missing packages."""

import json
import sys
import types
from pathlib import Path

import pytest

from delt_jax.data.digits import open_digits
from delt_jax.errors import UserError
from delt_jax.recipe import DataRecipe, Recipe
from delt_jax.stages import checks
from delt_jax.store import files, metric_writers
from delt_jax.store.log import MetricsLog


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def logged(folder: Path, *steps: int, writers=(), **values) -> None:
    """A run that logs these steps and ends."""
    log = MetricsLog(folder, writers, {"seed": 0})
    for step in steps:
        log.write("squeeze", step, loss=step / 2, **values)
    log.close()


def test_what_is_done_again_after_a_kill_is_logged_once(tmp_path):
    logged(tmp_path, 1, 2, batches=[0, 1])
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write('{"time": 1.5, "stage": "squeeze", "step": 3, "lo')
    logged(tmp_path, 2, 3, 3, batches=[0, 1])
    whole = [line for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if "}" in line]
    assert [json.loads(line)["step"] for line in whole] == [1, 2, 3]


def test_another_result_of_the_same_step_is_logged_too(tmp_path):
    logged(tmp_path, 1)
    log = MetricsLog(tmp_path)
    log.write("squeeze", 1, loss=0.7)
    log.close()
    assert [line["loss"] for line in lines(tmp_path)] == [0.5, 0.7]


@pytest.mark.parametrize(
    ("stage", "values", "names"),
    [
        ("squeeze", {"model": "conv3", "loss": 1.0, "note": "x"}, {"squeeze/conv3/loss"}),
        ("rank", {"count": 3, "flag": True, "list": [1.0]}, {"rank/count"}),
        ("recover", {"batches": [4], "bn": 1.0}, {"recover/batch-4/bn"}),
        ("recover", {"batches": [4, 5, 6], "bn": 1.0}, {"recover/batches-4-6/bn"}),
        (
            "evaluate",
            {"student": "vgg", "regime": "hard", "images": "full", "ipc": 0, "seed": 2}
            | {"learning_rate": 0.001, "last": 0.5},
            {"evaluate/vgg-hard-full-ipcall-rate0.001-seed2/last"},
        ),
    ],
)
def test_curves_of_different_things_have_different_names(stage, values, names):
    assert (
        metric_writers.scalars(metric_writers.MetricPoint(0, 0.0, stage, 1, values)).keys() == names
    )


def events(folder: Path) -> list[tuple[str, int, float]]:
    """Names, steps and values in all event files, in the order in which TensorBoard reads them."""
    from tensorboardX.proto import event_pb2

    found = []
    for path in sorted((folder / "tensorboard").glob("*tfevents*")):
        content, at = path.read_bytes(), 0
        while at < len(content):  # records: length (8), checksum (4), data, checksum (4)
            length = int.from_bytes(content[at : at + 8], "little")
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            at += 16 + length
    return found


def test_tensorboard_has_each_point_once(tmp_path):
    pytest.importorskip("tensorboardX")
    logged(tmp_path, 1, 2)  # before TensorBoard is asked for
    (tmp_path / "tensorboard").mkdir()
    torn = tmp_path / "tensorboard/events.out.tfevents.1.host.2.partial"  # of a kill while it began
    torn.write_bytes(b"torn")
    logged(tmp_path, 2, 3, writers=("tensorboard",))
    logged(tmp_path, 3, 4, writers=("tensorboard",))  # in the same second
    assert events(tmp_path) == [("squeeze/loss", step, step / 2) for step in (1, 2, 3, 4)]
    logged(tmp_path, 4, writers=("tensorboard",))
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3  # nothing new, no file
    assert not torn.exists()


def test_a_point_is_on_tensorboards_disk_before_the_line_that_says_so(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    log = MetricsLog(tmp_path, ("tensorboard",))
    monkeypatch.setattr(log._lines, "write", lambda point: pytest.fail("killed here"))
    with pytest.raises(pytest.fail.Exception):
        log.write("squeeze", 1, loss=0.5)
    assert events(tmp_path) == [("squeeze/loss", 1, 0.5)]


class Run:
    """What a stub of W&B keeps of a run."""

    def __init__(self, arguments):
        self.arguments, self.rows, self.axes, self.status = arguments, [], {}, None

    def log(self, row, step):
        self.rows.append((step, row))

    def define_metric(self, name, step_metric):
        self.axes[name] = step_metric

    def finish(self, exit_code):
        self.status = exit_code


@pytest.fixture
def wandb(monkeypatch):
    stub = types.ModuleType("wandb")
    stub.runs = []

    def init(**arguments):
        stub.runs.append(Run(arguments))
        return stub.runs[-1]

    stub.init, stub.Settings = init, lambda **settings: settings
    monkeypatch.setitem(sys.modules, "wandb", stub)
    for name in ("WANDB_RUN_ID", "WANDB_PROJECT", "WANDB_NAME", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    return stub


def test_wandb_goes_on_with_its_run(tmp_path, wandb):
    logged(tmp_path, 1)
    logged(tmp_path, 2, writers=("wandb",))
    logged(tmp_path, 2, 3, writers=("wandb",))
    first, second = wandb.runs
    assert first.arguments["project"] == "delt_jax"
    assert first.arguments["name"] == tmp_path.name
    assert first.arguments["config"] == {"seed": 0}
    assert first.arguments["settings"] == {"console": "off"}
    assert first.arguments["id"] == second.arguments["id"]
    # Points keep their numbers over all runs, so W&B cannot take one twice.
    assert first.rows + second.rows == [
        (n, {"squeeze/loss": (n + 1) / 2, "squeeze/step": n + 1}) for n in range(3)
    ]
    assert first.axes == {"squeeze/loss": "squeeze/step"}
    assert first.status == 0


def test_wandb_hears_of_a_run_that_ends_early(tmp_path, wandb):
    log = MetricsLog(tmp_path, ("wandb",))
    log.close(failed=True)
    assert wandb.runs[0].status == 1


def test_a_sweep_of_wandb_names_its_run(tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "from-the-agent")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    logged(tmp_path, 1, writers=("wandb",))
    assert wandb.runs[0].arguments["id"] == "from-the-agent"
    assert wandb.runs[0].arguments["project"] == "mine"


def test_wandb_that_does_not_begin_is_one_sentence(tmp_path, wandb):
    def refuse(**arguments):
        raise RuntimeError("api_key not configured\n(no-tty).")

    wandb.init = refuse
    with pytest.raises(UserError, match=r"api_key not configured \(no-tty\)\); run `wandb login`"):
        MetricsLog(tmp_path, ("wandb",))
    assert not (tmp_path / "wandb/delt_jax.json").exists()


def test_wandb_itself_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged(tmp_path, 1, writers=("wandb",))
    logged(tmp_path, 2, writers=("wandb",))
    known = files.read_json(tmp_path / "wandb/delt_jax.json")["id"]
    # Two runs of one id within a second: W&B adds "-1" to the name of the second's folder.
    folders = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert len(folders) == 2
    assert all(f"-{known}" in name for name in folders)


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_is_one_sentence_before_the_run(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    sentence = (
        rf"writers has '{name}', but {package} is not installed: pip install 'delt_jax\[{name}\]'"
    )
    source = open_digits(DataRecipe())
    with pytest.raises(UserError, match=sentence):
        checks.check(Recipe(writers=("jsonl", name)), source)
    with pytest.raises(UserError, match=sentence):
        MetricsLog(tmp_path, (name,))
    assert list(tmp_path.iterdir()) == []
    MetricsLog(tmp_path, ("jsonl",)).close()
