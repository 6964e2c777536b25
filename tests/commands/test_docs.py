"""The code in docs/distilled_set.md does what the page says."""

import re
from pathlib import Path

import numpy as np
import pytest

import delt_jax
from delt_jax import export, formats
from delt_jax.formats.distilled import DistilledSet
from delt_jax.labels import soft_labels
from delt_jax.store import files

PAGE = (Path(__file__).parents[2] / "docs/distilled_set.md").read_text()


def block(after: str) -> str:
    """The first block of Python after some words of the page."""
    return re.search(r"```python\n(.*?)```", PAGE[PAGE.index(after) :], re.DOTALL)[1]


@pytest.fixture
def digits(tmp_path, monkeypatch) -> DistilledSet:
    """A set that is easy to learn, in runs/digits of the current folder."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(3, dtype=np.int32), 4)
    images = 20 + 100 * labels[:, None, None, None] + draw.integers(0, 20, (12, 6, 6, 1))
    logits = 4 * np.eye(3, dtype=np.float32)[labels]
    manifest = {"normalisation": {"mean": [0.5], "std": [0.25]}}
    content = DistilledSet(images.clip(0, 255).astype(np.uint8), labels, ("a", "b", "c"), manifest)
    folder = tmp_path / "runs/digits"
    formats.FORMATS["distilled"].write(folder / "distilled", content, 0)
    (folder / "soft_labels").mkdir()
    of = files.read_json(folder / "distilled/manifest.json")["hash"]
    soft_labels.write(folder / "soft_labels", logits, {"distilled": of})
    return delt_jax.load(folder)


def run(code: str) -> dict:
    names: dict = {}
    exec(code, names)
    return names


def test_load(digits):
    names = run(block("# Train on a distilled set"))
    np.testing.assert_array_equal(names["data"].images, digits.images)
    assert names["data"].soft_labels.shape == (12, 3)
    assert names["small"].ipc == 2


def test_jax(digits):
    names = run(block("## JAX"))
    logits = names["model"].apply(names["params"], names["images"])
    assert (np.argmax(logits, axis=1) == digits.labels).mean() > 0.9
    assert names["loss"](names["params"]) < 0.8


def test_pytorch(digits):
    pytest.importorskip("torch")
    export.run(export.ExportOptions(Path("runs/digits"), "pt", Path("runs/digits.pt")))
    names = run(block("## PyTorch"))
    logits = names["model"](names["images"]).detach().numpy()
    assert (logits.argmax(1) == digits.labels).mean() > 0.9


def test_without_delt_jax(digits):
    names = run(block("## Without delt_jax"))
    np.testing.assert_array_equal(names["labels"], digits.labels)
    np.testing.assert_allclose(names["inputs"], (digits.images / 255 - 0.5) / 0.25)
    np.testing.assert_array_equal(names["soft"], digits.soft_labels)


def test_every_layout_is_described():
    page = (Path(__file__).parents[2] / "docs/formats.md").read_text()
    for name in formats.FORMATS:
        assert f"| `{name}` |" in page
        assert f"`{name}`" in PAGE
