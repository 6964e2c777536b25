"""benchmarks/label_store.py: its sizes, its table and picture, and what it asks the package for."""

import argparse
import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import label_store
import label_table

from delt_jax.errors import UserError
from delt_jax.evaluation.metrics import ScoreRow
from delt_jax.labels import label_store as store
from delt_jax.recipe import Recipe, RelabelRecipe
from delt_jax.training.protocols import EvalSetting, label_plan


def label_row(labels="stored", **changes):
    """A row of label_store.py."""
    return {
        "data": "digits",
        "ipc": 10,
        "labels": labels,
        "stored_epochs": 15 if labels == "stored" else 0,
        "top_k": 0,
        "form": "logits" if labels == "stored" else "",
        "epochs": 150,
        "bytes": 30_000 if labels == "stored" else 0,
        "ratio": 0.1 if labels == "stored" else 0.0,
        "last_mean": 0.82,
        "last_std": 0.005,
        "seeds": 3,
        "scores": ["a", "b", "c"],
        "student": "conv3",
        "protocol": "delt: 150 epochs",
        "distilled": "d1",
        "teacher": "t1",
        "machine": "two cores",
        "date": "2026-11-22",
    } | changes


def test_stored_labels_stand_beside_the_online_ones_of_their_set():
    online = label_row("online", last_mean=0.825)
    small = label_row(stored_epochs=2, top_k=3, form="probabilities", bytes=900, ratio=0.003)
    rows = [online, small, label_row(), label_row(distilled="another set", bytes=7)]
    lines = label_table.table(rows)
    assert lines[2] == "| 10 | online | – | – | – | – | 82.50 ± 0.50 (3 seeds) | – |"
    score = "82.00 ± 0.50 (3 seeds) | +0.50 |"
    assert lines[3] == f"| 10 | stored | 15 of 150 | all logits | 30,000 | 1/10 | {score}"
    assert lines[4] == f"| 10 | stored | 2 of 150 | 3 probabilities | 900 | 1/333 | {score}"
    assert lines[5] == ""
    picture = Image.open(io.BytesIO(label_table.picture(rows)))
    assert picture.format == "PNG"
    assert picture.width > 500


def test_sizes_of_the_store_are_read_and_reach_a_twentieth_and_less():
    assert label_store.size_of("20:3:probabilities") == label_store.Size(20, 3, "probabilities")
    for wrong in ("20:3", "0:3:logits", "a:3:logits", "2:3:letters"):
        with pytest.raises(argparse.ArgumentTypeError, match="is no size"):
            label_store.size_of(wrong)
    ratios = [plan_ratio(size) for size in label_store.SIZES]
    assert ratios[0] == 1
    assert sum(ratio <= 1 / 20 for ratio in ratios) >= 4
    assert min(ratios) <= 1 / 200


def plan_ratio(size) -> float:
    """Of a size to the naive one, of 100 images of 10 classes and 300 epochs."""
    recipe = Recipe(
        relabel=RelabelRecipe(stored_epochs=300 // size.uses, top_k=size.top_k, form=size.form)
    )
    return store.ratio(label_plan(recipe, EvalSetting("conv3", 10, 10, 28)))


@pytest.fixture
def pretended(monkeypatch):
    """Runs of the package as label_store.py asks for them; only their manifests are made."""
    asked = []

    def run(config, workdir, stages, command):
        assert command.startswith("python ")
        asked.append((config.to_dict(), Path(workdir).name, stages))
        folder, size, e = Path(workdir), config.relabel, config.evaluate
        content = {"distilled/manifest.json": {"ipc": config.ipc}}
        if stages == ("relabel", "evaluate"):
            (regime,) = e.regimes
            labels = size.stored_epochs * config.ipc * 20
            means = [0.5] * 4
            row = ScoreRow("conv3", regime, "recovered", 1, 1e-3, "p", 3, *means, [], 0.1, [])
            manifest = {"rows": [row.as_dict()], "distilled": "d", "teacher": {"hash": "t"}}
            stored = {"stored": {"bytes": labels, "ratio": size.stored_epochs / e.epochs}}
            content = {"evaluation/manifest.json": manifest, "soft_labels/manifest.json": stored}
        for name, value in content.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps(value))
        if "soft_labels/manifest.json" in content:
            (folder / "soft_labels/views.bin").write_bytes(b"x" * labels)

    monkeypatch.setattr(label_store.main, "run", run)
    monkeypatch.setattr(label_store.host_memory, "keep_freed", lambda: True)
    return asked


SIZES = ["--sizes", "1:0:logits", "3:2:probabilities"]


def test_every_size_is_a_run_of_two_stages_on_one_set_per_ipc(pretended, tmp_path, capsys):
    config = ["--config", str(ROOT / "configs/digits.py"), "--quick", "--seeds", "2"]
    label_store.run([*config, *SIZES, "--ipc", "3", "4", "--out", str(tmp_path)])
    stages = [(name, stages[-1]) for _, name, stages in pretended]
    three = [("ipc3", "evaluate")] * 3
    assert stages == [("ipc3", "recover"), ("ipc4", "recover"), *three, *[("ipc4", "evaluate")] * 3]
    assert pretended[1][0]["teacher"]["weights"] == str(tmp_path / "ipc3/teacher")
    online, naive, small = (settings for settings, *_ in pretended[2:5])
    assert online["evaluate"]["regimes"] == ("online",)
    assert {s["evaluate"]["scores_folder"] for s in (online, naive, small)} == {
        str(tmp_path / "scores")
    }
    assert [s["relabel"]["stored_epochs"] for s in (naive, small)] == [6, 2]
    assert (small["relabel"]["top_k"], small["relabel"]["form"]) == (2, "probabilities")
    assert "| 4 | stored | 2 of 6 | 2 probabilities | 160 |" in capsys.readouterr().out


def test_a_finished_run_gives_settings_teacher_and_set(pretended, tmp_path):
    given = tmp_path / "given"
    for name in ("teacher", "distilled"):
        (given / name).mkdir(parents=True)
        (given / name / "manifest.json").write_text('{"ipc": 3}')
    settings = {"ipc": 3, "data.name": "digits", "evaluate.gone": 1, "data.mean": [0.5]}
    (given / "config.json").write_text(json.dumps({"settings": settings}))
    command = ["--workdir", str(given), *SIZES, "--ipc", "3", "5", "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"has no ranking\.csv"):
        label_store.run(command)
    for name in ("ranking.csv", "ranking.json"):
        (given / name).write_text("{}")
    label_store.run(command)
    assert [(name, stages[-1]) for _, name, stages in pretended][:2] == [
        ("ipc5", "recover"),
        ("ipc3", "evaluate"),
    ]
    assert pretended[0][0]["teacher"]["weights"] == str(given / "teacher")
    assert pretended[1][0]["data"]["mean"] == (0.5,)
    assert pretended[1][0]["evaluate"]["epochs"] == 300
    assert (tmp_path / "out/ipc3/teacher/manifest.json").exists()
