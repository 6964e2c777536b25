"""benchmarks/fine_tuning.py: who trains on what, its settings, and its table."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import fine_tuning

from delt_jax.errors import UserError
from delt_jax.recipe import SETTINGS


@pytest.fixture
def folder(tmp_path):
    """Four classes of four pictures, 80 x 100 px, each of a colour of its own."""
    for c, name in enumerate("abcd"):
        (tmp_path / "all" / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.full((80, 100, 3), 60 * c + i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "all" / name / f"{i}.png")
    return tmp_path / "all"


def test_halves_share_no_class_and_splits_no_picture(folder, tmp_path):
    fine_tuning.lay_out(folder, out := tmp_path / "out", 3)
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))
    many = [f"many/{c}/{i}.png" for c in "ab" for i in range(4)]
    few = [f"few/train/{c}/{i}.png" for c in "cd" for i in range(3)]
    assert names == sorted([*many, *few, "few/test/c/3.png", "few/test/d/3.png"])
    pixels = np.asarray(Image.open(out / "few/test/d/3.png"))
    assert pixels.shape == (64, 64, 3)
    assert pixels.max() == 183
    assert not pixels[:6].any()  # the whole picture, padded
    with pytest.raises(UserError, match="has 4 pictures; lower --pictures"):
        fine_tuning.lay_out(folder, tmp_path / "other", 4)
    with pytest.raises(UserError, match="needs the folders of four classes"):
        fine_tuning.halves(folder / "a")


def test_every_way_is_of_known_settings():
    assert all(set(way.settings) <= SETTINGS.keys() for way in fine_tuning.WAYS)
    assert not fine_tuning.WAYS[0].settings
    assert len({way.name for way in fine_tuning.WAYS}) == len(fine_tuning.WAYS)


def test_the_table_says_what_is_gained():
    shared = {
        **{"data": "x", "classes": [["a"], ["b", "c"]], "pictures": 25, "tested": 1032},
        **{"epochs": 40, "first_epochs": 20, "first_accuracy": 0.6, "network": "conv4"},
        **{"weights": ""},
        **{"machine": "two cores", "date": "2026-11-27"},
    }
    rows = [
        shared | {"way": "from scratch", "accuracies": [0.5, 0.52]},
        shared | {"way": "tuned", "accuracies": [0.6, 0.6]},
    ]
    lines = fine_tuning.table(rows)
    assert "| from scratch | 51.0 ± 1.4 | – |" in lines
    assert "| tuned | 60.0 ± 0.0 | +9.0 |" in lines
    assert "The weights are of a, 20 epochs (60.0 %). two cores" in lines[-1]
    assert "25 pictures of each of b, c, 40 epochs, 2 seeds, tested on 1,032" in lines[-1]
