"""Which protocol the students of a row train by."""

import pytest
from tiny_run import tiny

from delt_jax import config
from delt_jax.data import open_source
from delt_jax.evaluation.rows import EvalRow, resolve


@pytest.mark.parametrize(
    ("regime", "expected"),
    [("online", "common"), ("fixed", "common"), ("hard", "dsa"), ("plain", "dsa")],
)
def test_hard_labels_may_have_a_protocol_of_their_own(regime, expected):
    settings = {"evaluate.protocol": "common", "evaluate.hard_protocol": "dsa"}
    recipe = config.from_config(tiny(**settings))
    row = EvalRow("conv3", regime, "recovered", 1)
    assert resolve(recipe, open_source(recipe.data), row).name == expected
