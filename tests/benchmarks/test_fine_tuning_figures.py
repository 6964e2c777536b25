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
    first, second = fine_tuning.halves(fine_tuning.read(folder))
    assert ([*first], [*second]) == (["a", "b"], ["c", "d"])
    assert second["d"].shape == (4, 64, 64, 3)
    assert not second["d"][:, :6].any()  # the whole picture, padded
    shades = [pixels.max((1, 2, 3)).tolist() for pixels in second.values()]
    assert shades == [[120, 121, 122, 123], [180, 181, 182, 183]]
    draws = set()
    for seed in range(8):
        train, test = fine_tuning.few_of(second, 1, seed)
        assert test["d"].max((1, 2, 3)).tolist() == [180, 181]  # whatever the seed
        draws.add(int(train["d"].max()))
    assert draws == {182, 183}
    fine_tuning.write_npz(tmp_path / "few.npz", train, test)
    with np.load(tmp_path / "few.npz") as arrays:
        assert arrays["test_labels"].tolist() == [0, 0, 1, 1]
        assert arrays["train_images"].shape == (2, 64, 64, 3)
    with pytest.raises(UserError, match="has 4 pictures; lower --pictures"):
        fine_tuning.few_of(second, 3, 0)
    with pytest.raises(UserError, match="needs the folders of four classes"):
        fine_tuning.halves(fine_tuning.read(folder / "a"))


def test_every_way_is_of_known_settings():
    assert all(set(way.settings) <= SETTINGS.keys() for way in fine_tuning.WAYS)
    assert not fine_tuning.WAYS[0].settings
    assert len({way.name for way in fine_tuning.WAYS}) == len(fine_tuning.WAYS)


def test_the_table_says_what_is_gained():
    shared = {
        **{"data": "x", "classes": [["a"], ["b", "c"]], "pictures": 5, "tested": 1032},
        **{"epochs": 40, "first_epochs": 20, "first_accuracy": 0.6, "network": "conv4"},
        **{"seen": 2000, "machine": "two cores", "date": "2026-11-27"},
    }
    rows = [
        shared | {"way": "from scratch", "accuracies": [0.5, 0.52]},
        shared | {"way": "tuned", "accuracies": [0.6, 0.62]},
    ]
    lines = fine_tuning.table(rows)
    assert "| 5 | from scratch | 51.0 ± 1.4 | – |" in lines
    assert "| 5 | tuned | 61.0 ± 1.4 | +10.0 ± 0.0 |" in lines  # of pairs
    assert "Chance is 50 %. The weights are of 2,000 pictures of a, 20 epochs" in lines[-1]
    assert "conv4, b, c, 40 epochs, 2 seeds with pictures of their own, tested on" in lines[-1]
