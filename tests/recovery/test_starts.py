"""Start images that come more than once."""

import chex
import numpy as np

from delt_jax.data import Normalisation, open_source
from delt_jax.recipe import DataRecipe
from delt_jax.recovery import initial_images
from delt_jax.recovery.starts import RealImages

SOURCE = open_source(DataRecipe(name="digits", image_size=24))
PLAIN = Normalisation((0.5,), (0.5,))


def test_real_images_that_repeat_are_crops_of_their_own(tmp_path):
    selected = np.array([[3, 5, 3, 5, 3], [10, 11, 12, 13, 14]])
    starts = RealImages(SOURCE, PLAIN, selected, seed=4)
    pixels, whole = starts.pixels(range(10)), SOURCE.train.pixels[selected.reshape(-1)]
    chex.assert_trees_all_equal(pixels[[0, 1, *range(5, 10)]], whole[[0, 1, *range(5, 10)]])
    for first, again in ((0, 2), (0, 4), (2, 4), (1, 3)):
        assert (pixels[first] != pixels[again]).any()
    chex.assert_trees_all_equal(starts.pixels([4, 2]), pixels[[4, 2]])  # whatever lies beside
    chex.assert_trees_all_close(starts.images(range(10)), np.asarray(PLAIN(pixels)))
    found = initial_images.recorded(starts.record(tmp_path), tmp_path, SOURCE, PLAIN)
    chex.assert_trees_all_equal(found.pixels(range(10)), pixels)
    other = RealImages(SOURCE, PLAIN, selected, seed=5)
    assert (other.pixels([2]) != pixels[[2]]).any()


def test_images_that_do_not_repeat_need_no_seed(tmp_path):
    starts = RealImages(SOURCE, PLAIN, np.array([[3, 5], [10, 11]]), seed=4)
    assert starts.record(tmp_path) == {"split": "train", "indices": [[3, 5], [10, 11]]}
